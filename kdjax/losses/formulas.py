"""The divergences themselves: functions of (p, q, over), one value per token.

p is the teacher, q the student. `DIVERGENCES` gives the formula and the paper of each;
the implementations here keep float32 accuracy where p and q are close, far apart, or
zero.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from kdjax.losses.vocabulary import Distribution, Vocabulary

ScalarLike = int | float | Float[Array, ""]
Number = ScalarLike | np.generic  # what callers may pass


def _times(p: Array, x: Array) -> Array:
    """Returns p * x, and 0 wherever p is 0, even if x is infinite."""
    # The inner `where` keeps 0 * inf out of the gradient as well as out of the value.
    zero = p == 0.0
    return jnp.where(zero, 0.0, p * jnp.where(zero, 0.0, x))


def _log_ratio(p_logs: Array, q_logs: Array) -> Array:
    """Returns log(q / p); 0 where both probabilities are 0, which is padding."""
    neither = jnp.isneginf(p_logs) & jnp.isneginf(q_logs)
    return jnp.where(neither, 0.0, q_logs - p_logs)


_NEAR = 0.25  # below it the series is exact in float32, above it nothing cancels


def _series(x: Array) -> Array:
    """Returns e^x - 1 - x for |x| < _NEAR."""
    return x * x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x / 720))))


def _excess(p: Array, q: Array, x: Array) -> Array:
    """Returns p (e^x - 1 - x), given q = p e^x: the terms of KL(p || q).

    As p and q both sum to 1, these terms sum to sum p log(p / q); but each is
    non-negative and of second order, so that nothing cancels in float32 where p and q
    are close (at high temperatures the plain sum loses four digits), and an error in
    either normaliser has a second-order effect only.
    """
    near = jnp.abs(x) < _NEAR
    return jnp.where(near, p * _series(jnp.where(near, x, 0.0)), q - p - _times(p, x))


def _log_mixture(x: Array, weight: ScalarLike) -> Array:
    """Returns log(weight + (1 - weight) e^x), for x of any size and sign."""
    # The first form is exact near 0, the second neither overflows nor rounds to log 0.
    near = jnp.abs(x) < 1.0
    close = jnp.log1p((1.0 - weight) * jnp.expm1(jnp.where(near, x, 0.0)))
    apart = jnp.logaddexp(
        jnp.log(jnp.asarray(weight, jnp.float32)),
        jnp.log1p(-jnp.asarray(weight, jnp.float32)) + jnp.where(near, 1.0, x),
    )
    return jnp.where(near, close, apart)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def forward_kl(p: Distribution, q: Distribution, over: Vocabulary) -> Array:
    """KL(p || q), without a gradient with respect to p."""
    # With x the difference of the shifted logits, m = sum p x and
    # f = sum p (e^x - 1 - x), the ratio of the totals is 1 + f + m, and the value is
    # log(1 + f + m) - m: one pass over the ids gives everything, and of the
    # cancellation only the rounding error of m remains.
    # Where p is 0, any x that is not near 0 leaves the term q, as it should be.
    x = jnp.where(p.exponentials > 0.0, q.shifted - p.shifted, 1.0)
    moved = p.exponentials * x
    far = q.exponentials - p.exponentials - moved
    terms = jnp.where(jnp.abs(x) < _NEAR, p.exponentials * _series(x), far)
    mean, excess = over.sum(moved) / p.total, over.sum(terms) / p.total
    near = jnp.abs(mean) + jnp.abs(excess) < 0.5
    log = jnp.where(near, jnp.log1p(excess + mean), jnp.log(q.total / p.total))
    return log - mean


@forward_kl.defjvp
def _forward_kl_jvp(
    over: Vocabulary,
    distributions: tuple[Distribution, Distribution],
    tangents: tuple[Distribution, Distribution],
) -> tuple[Array, Array]:
    # In closed form, as automatic differentiation would take another pass over the ids.
    # The gradient by the logits is also that by `shifted`, since a constant shift
    # changes nothing.
    p, q = distributions
    tangent = over.sum((q.probs - p.probs) * tangents[1].shifted)
    return forward_kl(p, q, over), tangent


def reverse_kl(p: Distribution, q: Distribution, over: Vocabulary) -> Array:
    """KL(q || p)."""
    return over.sum(_excess(q.probs, p.probs, _log_ratio(q.logs, p.logs)))


def skew_forward_kl(
    p: Distribution, q: Distribution, over: Vocabulary, *, skew: ScalarLike
) -> Array:
    """KL(p || skew p + (1 - skew) q)."""
    if isinstance(skew, float) and skew == 1.0:
        return 0.0 * p.total
    mixture = skew * p.probs + (1.0 - skew) * q.probs
    return over.sum(
        _excess(p.probs, mixture, _log_mixture(_log_ratio(p.logs, q.logs), skew))
    )


def skew_reverse_kl(
    p: Distribution, q: Distribution, over: Vocabulary, *, skew: ScalarLike
) -> Array:
    """KL(q || skew q + (1 - skew) p)."""
    return skew_forward_kl(q, p, over, skew=skew)


def jsd(
    p: Distribution, q: Distribution, over: Vocabulary, *, beta: ScalarLike
) -> Array:
    """The generalised Jensen-Shannon divergence."""
    if isinstance(beta, float) and beta in (0.0, 1.0):
        return reverse_kl(p, q, over) if beta else forward_kl(p, q, over)
    from_p = skew_forward_kl(p, q, over, skew=beta)
    from_q = skew_forward_kl(q, p, over, skew=1.0 - beta)
    return beta * from_p + (1.0 - beta) * from_q


def total_variation(p: Distribution, q: Distribution, over: Vocabulary) -> Array:
    """Half the sum of |p - q|."""
    return 0.5 * over.sum(jnp.abs(p.probs - q.probs))


def hellinger(p: Distribution, q: Distribution, over: Vocabulary) -> Array:
    """The squared Hellinger distance."""
    difference = jnp.exp(0.5 * p.logs) - jnp.exp(0.5 * q.logs)
    return 0.5 * over.sum(jnp.square(difference))


def alpha_beta(
    p: Distribution, q: Distribution, over: Vocabulary, *, a: ScalarLike, b: ScalarLike
) -> Array:
    """The alpha-beta divergence of probabilities."""
    x = _log_ratio(p.logs, q.logs)

    def power(logs: Array, exponent: ScalarLike) -> Array:
        return jnp.exp(exponent * logs)

    # Where a or b is 0 the general form is 0 / 0; its limit is a KL of powers.
    if isinstance(b, float) and b == 0.0:
        terms = _excess(power(p.logs, a), power(q.logs, a), a * x) / a**2
    elif isinstance(a, float) and a == 0.0:
        terms = _excess(power(q.logs, b), power(p.logs, b), -b * x) / b**2
    else:
        c = a + b
        near = jnp.abs(x) * jnp.maximum(c, 1.0) < _NEAR
        y = jnp.where(near, x, 0.0)
        p_c, q_c = power(p.logs, c), power(q.logs, c)
        # p^a q^b from the larger of the two powers, whose rounding then cancels below.
        larger = jnp.where(x < 0.0, p_c, q_c)
        cross = larger * jnp.exp(jnp.where(x < 0.0, b * x, -a * x))
        share = b / c
        close = p_c * (share * _series(c * y) - _series(b * y))
        apart = (1.0 - share) * p_c + share * q_c - cross
        terms = jnp.where(near, close, apart) / (a * b)
    return over.sum(terms)


def adaptive_kl(
    p: Distribution, q: Distribution, over: Vocabulary, *, mu: ScalarLike
) -> Array:
    """Forward and reverse KL, weighted by where p and q differ."""
    if isinstance(mu, float) and mu == 1.0:
        return forward_kl(p, q, over)  # rounding may leave a tail
    gap = lax.stop_gradient(jnp.abs(p.probs - q.probs))
    in_head = p.probs >= _head_threshold(p.probs, over, mu)[..., None]
    head = over.sum(jnp.where(in_head, gap, 0.0))
    tail = over.sum(jnp.where(in_head, 0.0, gap))
    share = jnp.where(head + tail > 0.0, head / (head + tail), 0.5)
    forward, reverse = forward_kl(p, q, over), reverse_kl(p, q, over)
    return share * forward + (1.0 - share) * reverse


def _head_threshold(probs: Array, over: Vocabulary, mass: ScalarLike) -> Array:
    """Returns the largest t for which the ids of probability >= t sum to `mass`."""
    # By bisection over the bit patterns, which are ordered as non-negative floats are:
    # exact after 31 sums, whereas sorting a vocabulary that is sharded over devices
    # would move it between them.
    bits = lax.bitcast_convert_type(lax.stop_gradient(probs), jnp.int32)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        above = jnp.where(bits >= middle[..., None], probs, 0.0)
        enough = over.sum(lax.stop_gradient(above)) >= mass
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    top = lax.bitcast_convert_type(over.max(probs), jnp.int32)
    low, _ = lax.fori_loop(0, 31, halve, (0 * top, top + 1))
    return lax.bitcast_convert_type(low, jnp.float32)


def taid(p: Distribution, q: Distribution, over: Vocabulary, *, t: ScalarLike) -> Array:
    """KL from a distribution interpolated between student and teacher."""
    start = lax.stop_gradient(q.logs)
    between = over.softmax(
        _times(jnp.asarray(1.0 - t), start) + _times(jnp.asarray(t), p.logs)
    )
    return forward_kl(between, q, over)


def decoupled_kd(
    p: Distribution,
    q: Distribution,
    over: Vocabulary,
    *,
    labels: Int[Array, "*batch"],
    a: ScalarLike,
    b: ScalarLike,
) -> Array:
    """KL of the label against the rest, and of the rest within itself."""
    is_target = over.is_label(p.logs, labels)

    def split(x: Distribution) -> tuple[Distribution, Distribution]:
        """Returns the distribution (target, not target), and that of the others."""
        logs = jnp.where(is_target, -jnp.inf, x.logs)
        others = over.softmax(logs)
        # Summed from its own terms: 1 - p(label) would lose precision.
        rest = over.max(logs) + jnp.log(others.total)
        both = jnp.stack([over.pick(x.logs, labels), rest], -1)
        return Vocabulary().softmax(both), others

    (p_binary, p_others), (q_binary, q_others) = split(p), split(q)
    target = forward_kl(p_binary, q_binary, Vocabulary())
    has_others = ~jnp.isneginf(p_binary.shifted[..., 1])
    others = jnp.where(has_others, forward_kl(p_others, q_others, over), 0.0)
    return a * target + b * others


def logit_mse(p: Distribution, q: Distribution, over: Vocabulary) -> Array:
    """Half the mean squared difference of centred logits."""
    # Log-probabilities differ from logits by a constant, which centring removes.
    counted = ~(jnp.isneginf(p.logs) | jnp.isneginf(q.logs))
    number = jnp.maximum(over.sum(counted.astype(jnp.float32)), 1.0)
    difference = jnp.where(counted, q.logs - p.logs, 0.0)
    mean = (over.sum(difference) / number)[..., None]
    squares = jnp.where(counted, jnp.square(difference - mean), 0.0)
    return 0.5 * over.sum(squares) / number
