"""Divergences between the teacher's and the student's output distribution.

One convention everywhere: p is the teacher, q the student, both softened by the same
temperature; every function takes log-probabilities in float32 and returns one value in
nats per token. The `temperature**2` factor of distillation belongs to the mixture
(`distillation_loss`), not to a divergence.

To add one: write the function of `(log_p, log_q)` and give it an entry in
`DIVERGENCES` and a name in `config.DistillConfig.kind`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ScalarLike = float | Float[Array, ""]


class Divergence(NamedTuple):
    """One row of the table: what is computed, and who described it."""

    function: Callable[[Array, Array], Array]
    formula: str
    paper: str


def _expectation(log_p: Array, value: Array) -> Array:
    """Returns sum(p * value); ids of probability zero count nothing, even at inf."""
    support = ~jnp.isneginf(log_p)  # so that a NaN stays one
    # The inner `where` keeps inf - inf out of the gradient as well as out of the sum.
    terms = jnp.where(support, jnp.exp(log_p) * jnp.where(support, value, 0.0), 0.0)
    return terms.sum(-1)


def _forward_kl(log_p: Array, log_q: Array) -> Array:
    return _expectation(log_p, log_p - log_q)


def _reverse_kl(log_p: Array, log_q: Array) -> Array:
    return _forward_kl(log_q, log_p)


def _total_variation(log_p: Array, log_q: Array) -> Array:
    return 0.5 * jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)).sum(-1)


DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": Divergence(
        _forward_kl,
        "sum_v p_v (log p_v - log q_v); infinite where q misses an id that p has",
        "Hinton, Vinyals and Dean 2015, arXiv:1503.02531",
    ),
    "reverse_kl": Divergence(
        _reverse_kl,
        "sum_v q_v (log q_v - log p_v); infinite where p excludes an id that q has",
        "Gu et al. 2024 (MiniLLM), arXiv:2306.08543",
    ),
    "total_variation": Divergence(
        _total_variation,
        "1/2 sum_v |p_v - q_v| in [0, 1]; 1 minus it is the expected acceptance "
        "rate of speculative decoding",
        "Wen et al. 2023 (f-distill), arXiv:2307.15190",
    ),
}


def divergence(
    student_logits: Float[Array, "*batch V"],
    teacher_logits: Float[Array, "*batch V"],
    *,
    kind: str,
    temperature: ScalarLike = 1.0,
) -> Float[Array, "*batch"]:
    r"""Returns the divergence between teacher and student, per token.

    With :math:`p = \mathrm{softmax}(t / \tau)` and
    :math:`q = \mathrm{softmax}(s / \tau)`, computes ``DIVERGENCES[kind].formula``. Both
    softmaxes run in float32 whatever the logits' dtype. An id whose logit is ``-inf``
    on both sides (vocabulary padding) counts nothing. No gradient reaches the teacher.

    Args:
        student_logits: Unnormalised student scores.
        teacher_logits: Unnormalised teacher scores over the same vocabulary.
        kind: A name in `DIVERGENCES`.
        temperature: Softening temperature, strictly positive.

    Returns:
        Nats per token in float32, non-negative up to rounding.

    Raises:
        ValueError: `kind` is not in the table.

    Example:
        >>> teacher = jnp.log(jnp.array([[0.75, 0.25]]))
        >>> kl = divergence(jnp.zeros((1, 2)), teacher, kind="forward_kl")
        >>> round(float(kl[0]), 4)
        0.1308
    """
    if kind not in DIVERGENCES:
        listed = ", ".join(DIVERGENCES)
        raise ValueError(f"unknown divergence {kind!r}; choose one of: {listed}")
    teacher_logits = jax.lax.stop_gradient(teacher_logits)
    log_p = tempered_log_softmax(teacher_logits, temperature)
    log_q = tempered_log_softmax(student_logits, temperature)
    return DIVERGENCES[kind].function(log_p, log_q)


def tempered_log_softmax(
    logits: Float[Array, "*batch V"], temperature: ScalarLike
) -> Float[Array, "*batch V"]:
    """Returns log softmax(logits / temperature) in float32."""
    return jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
