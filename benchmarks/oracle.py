"""Every divergence and its gradient in float64 numpy: the reference for the loss.

It shares no code with `kdjax.losses` and uses no automatic differentiation: values are
sums as defined, and gradients are derived by hand. Nor does it share code with
`tests/oracles.py`, the tests' reference, which has values only and also accepts ids of
probability zero. Both were derived independently, so each checks the other.

p is the teacher's distribution and q the student's, both tempered; [N, V] throughout.

For a divergence written in log q, with u = dD / d(log q) ignoring normalisation, the
softmax gives dD / d(logits / temperature) = u - q sum(u).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int32]


class Result(NamedTuple):
    """The weighted sum, each token's soft part, and the gradients."""

    loss: float
    soft: Array  # [N]
    hidden: Array  # [N, Ds]
    kernel: Array  # [Ds, V]


class Inputs(NamedTuple):
    """Hidden states and head kernels of both models."""

    student_hidden: Array
    student_kernel: Array
    teacher_hidden: Array
    teacher_kernel: Array


def distillation(
    inputs: Inputs,
    *,
    labels: Labels,
    weights: Array,
    kind: str,
    alpha: float,
    temperature: float,
    parameters: Mapping[str, float],
    logits: type[np.floating[Any]] = np.float64,
) -> Result:
    """Returns alpha T^2 D + (1 - alpha) CE, weighted and summed, and its gradients.

    Args:
        inputs: Hidden states and heads of both models.
        labels: The true ids, [N].
        weights: Each token's weight, [N].
        kind: The divergence D.
        alpha: The weight of D.
        temperature: Softens both distributions.
        parameters: The divergence's own parameters.
        logits: The dtype of the logits; float32 shows how much error float32 logits
            alone cause, all else being exact.
    """
    student, teacher = (
        (hidden.astype(logits) @ kernel.astype(logits)).astype(np.float64)
        for hidden, kernel in (inputs[:2], inputs[2:4])
    )
    rows = np.arange(len(student))
    log_one = log_softmax(student)
    hard = -log_one[rows, labels]
    hard_slope = np.exp(log_one)
    hard_slope[rows, labels] -= 1.0
    soft, soft_slope = divergence(
        student / temperature, teacher / temperature, labels, kind, parameters
    )
    mixed = alpha * temperature**2 * soft + (1.0 - alpha) * hard
    slope = alpha * temperature * soft_slope + (1.0 - alpha) * hard_slope
    slope *= weights[:, None]
    return Result(
        float(weights @ mixed),
        soft,
        slope @ inputs.student_kernel.T,
        inputs.student_hidden.T @ slope,
    )


def divergence(
    student: Array,
    teacher: Array,
    labels: Labels,
    kind: str,
    parameters: Mapping[str, float],
) -> tuple[Array, Array]:
    """Returns values [N] and gradients in the tempered student logits, [N, V]."""
    if kind == "logit_mse":
        return _logit_mse(student, teacher)
    if kind == "decoupled_kd":
        return _decoupled(student, teacher, labels, **parameters)
    if kind == "taid":
        share = parameters["t"]
        teacher, kind, parameters = (1 - share) * student + share * teacher, "kl", {}
    log_p, log_q = log_softmax(teacher), log_softmax(student)
    value, slope = _BY_LOG_PROBABILITY[kind](log_p, log_q, **parameters)
    return value, slope - np.exp(log_q) * slope.sum(-1, keepdims=True)


def log_softmax(logits: Array) -> Array:
    """Returns the logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def smooth(
    inputs: Inputs, *, kind: str, temperature: float, parameters: Mapping[str, float]
) -> NDArray[np.bool_]:
    """Returns which tokens are too far from a kink for float32 rounding to cross it.

    Total variation has a kink where p = q, and adaptive KL a jump where the mass of the
    head is mu. Within rounding error of such a point, either gradient is correct.
    """
    student = inputs.student_hidden @ inputs.student_kernel / temperature
    teacher = inputs.teacher_hidden @ inputs.teacher_kernel / temperature
    log_p, log_q = log_softmax(teacher), log_softmax(student)
    if kind == "total_variation":
        # Rounding grows with the terms being subtracted: logits and normalisers.
        size = np.abs(student).max() + np.abs(teacher).max() + np.log(log_p.shape[-1])
        return np.abs(log_p - log_q).min(-1) > 1e-6 * size
    if kind == "adaptive_kl":
        mass = np.cumsum(-np.sort(-np.exp(log_p), -1), -1)
        return np.abs(mass - parameters["mu"]).min(-1) > 1e-5
    return np.ones(len(student), bool)


def _kl(log_p: Array, log_q: Array) -> tuple[Array, Array]:
    p = np.exp(log_p)
    return (p * (log_p - log_q)).sum(-1), -p


def _reverse_kl(log_p: Array, log_q: Array) -> tuple[Array, Array]:
    terms = np.exp(log_q) * (log_q - log_p)
    return terms.sum(-1), terms + np.exp(log_q)


def _log_mixture(log_p: Array, log_q: Array, share: float) -> Array:
    return np.logaddexp(np.log(share) + log_p, np.log1p(-share) + log_q)


def _jsd(log_p: Array, log_q: Array, beta: float) -> tuple[Array, Array]:
    if beta in (0.0, 1.0):
        return (_kl, _reverse_kl)[int(beta)](log_p, log_q)
    log_m = _log_mixture(log_p, log_q, beta)
    teacher = beta * np.exp(log_p) * (log_p - log_m)
    student = (1 - beta) * np.exp(log_q) * (log_q - log_m)
    # The derivative through the mixture cancels the "+ 1" of q log q.
    return (teacher + student).sum(-1), student


def _skew_kl(log_p: Array, log_q: Array, skew: float) -> tuple[Array, Array]:
    if skew == 0.0:
        return _kl(log_p, log_q)
    log_m = _log_mixture(log_p, log_q, skew)
    p = np.exp(log_p)
    slope = -(1 - skew) * np.exp(log_p + log_q - log_m)
    return (p * (log_p - log_m)).sum(-1), slope


def _skew_reverse_kl(log_p: Array, log_q: Array, skew: float) -> tuple[Array, Array]:
    if skew == 0.0:
        return _reverse_kl(log_p, log_q)
    log_m = _log_mixture(log_q, log_p, skew)
    q = np.exp(log_q)
    slope = q * (log_q - log_m + 1.0 - skew * np.exp(log_q - log_m))
    return (q * (log_q - log_m)).sum(-1), slope


def _total_variation(log_p: Array, log_q: Array) -> tuple[Array, Array]:
    p, q = np.exp(log_p), np.exp(log_q)
    return 0.5 * np.abs(p - q).sum(-1), 0.5 * np.sign(log_q - log_p) * q


def _hellinger(log_p: Array, log_q: Array) -> tuple[Array, Array]:
    root_p, root_q = np.exp(log_p / 2), np.exp(log_q / 2)
    value = 0.5 * ((root_p - root_q) ** 2).sum(-1)
    return value, 0.5 * root_q * (root_q - root_p)


def _alpha_beta(log_p: Array, log_q: Array, a: float, b: float) -> tuple[Array, Array]:
    both = np.exp(a * log_p + b * log_q)
    p, q = np.exp((a + b) * log_p), np.exp((a + b) * log_q)
    terms = both - a / (a + b) * p - b / (a + b) * q
    return -terms.sum(-1) / (a * b), -(both - q) / a


def _adaptive_kl(log_p: Array, log_q: Array, mu: float) -> tuple[Array, Array]:
    p, q = np.exp(log_p), np.exp(log_q)
    descending = -np.sort(-p, -1)
    # The last probability needed to reach mu; all its ties are included.
    needed = (np.cumsum(descending, -1) < mu).sum(-1).clip(max=p.shape[-1] - 1)
    head = p >= np.take_along_axis(descending, needed[:, None], -1)
    gap = np.abs(p - q)
    share = (gap * head).sum(-1) / gap.sum(-1)
    (forward, up), (reverse, down) = _kl(log_p, log_q), _reverse_kl(log_p, log_q)
    value = share * forward + (1 - share) * reverse
    return value, share[:, None] * up + (1 - share)[:, None] * down


_BY_LOG_PROBABILITY: dict[str, Callable[..., tuple[Array, Array]]] = {
    "kl": _kl,
    "forward_kl": _kl,
    "reverse_kl": _reverse_kl,
    "jsd": _jsd,
    "skew_forward_kl": _skew_kl,
    "skew_reverse_kl": _skew_reverse_kl,
    "total_variation": _total_variation,
    "hellinger": _hellinger,
    "alpha_beta": _alpha_beta,
    "adaptive_kl": _adaptive_kl,
}


def _logit_mse(student: Array, teacher: Array) -> tuple[Array, Array]:
    gap = student - teacher
    gap = gap - gap.mean(-1, keepdims=True)
    return 0.5 * (gap**2).mean(-1), gap / gap.shape[-1]


def _decoupled(
    student: Array, teacher: Array, labels: Labels, a: float, b: float
) -> tuple[Array, Array]:
    rows = np.arange(len(student))
    log_p, log_q = log_softmax(teacher), log_softmax(student)
    true_p, true_q = log_p[rows, labels], log_q[rows, labels]
    # 1 - p(label) summed over the other ids, as the difference would cancel.
    others_p, others_q = (log.copy() for log in (log_p, log_q))
    others_p[rows, labels] = others_q[rows, labels] = -np.inf
    rest_p = np.logaddexp.reduce(others_p, -1)
    rest_q = np.logaddexp.reduce(others_q, -1)
    given_p = np.exp(others_p - rest_p[:, None])
    given_q = np.exp(others_q - rest_q[:, None])
    target = np.exp(true_p) * (true_p - true_q) + np.exp(rest_p) * (rest_p - rest_q)
    ratio = log_p - rest_p[:, None] - (log_q - rest_q[:, None])
    among = (given_p * np.where(np.isneginf(others_p), 0.0, ratio)).sum(-1)
    slope = np.exp(log_q) - np.exp(rest_p)[:, None] * given_q
    slope[rows, labels] = np.exp(true_q) - np.exp(true_p)
    return a * target + b * among, a * slope + b * (given_q - given_p)
