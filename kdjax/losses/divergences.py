"""Divergences between the teacher's and the student's output distribution.

One convention everywhere: p is the teacher, q the student, both softened by the same
temperature; one value per token. The `temperature**2` factor of distillation
belongs to the mixture (`distillation_loss`), not to the divergence.

To add one: write the function of `(p, q, over)` in `formulas.py` and give it an entry
in `DIVERGENCES`; a parameter is a keyword of the function, and a field of
`config.DistillConfig`. Reduce over the ids with `over` alone, so that it also works
where the vocabulary is sharded over devices.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from kdjax.losses.formulas import (
    Number,
    ScalarLike,
    adaptive_kl,
    alpha_beta,
    decoupled_kd,
    forward_kl,
    hellinger,
    jsd,
    logit_mse,
    reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
    taid,
    total_variation,
)
from kdjax.losses.vocabulary import Distribution, Vocabulary


class Parameter(NamedTuple):
    """A parameter of a divergence: its default and the closed range of its values."""

    default: float
    low: float
    high: float


class Divergence(NamedTuple):
    """One row of the table.

    Attributes:
        function: `function(p, q, over, **parameters)`, one value per token; also takes
            `labels` where `needs_labels`.
        formula: What it computes.
        limits: Its limiting cases, and where it is infinite.
        paper: The paper that describes it.
        parameters: Its parameters by name.
        needs_labels: Whether it depends on the true ids.
    """

    function: Callable[..., Array]
    formula: str
    limits: str
    paper: str
    parameters: Mapping[str, Parameter] = {}
    needs_labels: bool = False


_WEIGHT = {"low": 0.0, "high": 1.0}
_INFINITE_FORWARD = "infinite where q misses an id that p has"
_INFINITE_REVERSE = "infinite where p misses an id that q has"

DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": Divergence(
        forward_kl,
        "sum_v p_v log(p_v / q_v)",
        _INFINITE_FORWARD,
        "Hinton, Vinyals and Dean 2015, arXiv:1503.02531",
    ),
    "reverse_kl": Divergence(
        reverse_kl,
        "sum_v q_v log(q_v / p_v)",
        _INFINITE_REVERSE,
        "Gu et al. 2024 (MiniLLM), arXiv:2306.08543",
    ),
    "jsd": Divergence(
        jsd,
        "beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q",
        "forward_kl at beta = 0 and reverse_kl at beta = 1, by definition of the ends; "
        "divided by beta (1 - beta) it tends to them; finite in between",
        "Agarwal et al. 2024 (GKD), arXiv:2306.13649",
        {"beta": Parameter(0.5, **_WEIGHT)},
    ),
    "skew_forward_kl": Divergence(
        skew_forward_kl,
        "KL(p || skew p + (1 - skew) q)",
        "forward_kl at skew = 0, 0 at skew = 1; finite for skew > 0",
        "Ko et al. 2024 (DistiLLM), arXiv:2402.03898",
        {"skew": Parameter(0.1, **_WEIGHT)},
    ),
    "skew_reverse_kl": Divergence(
        skew_reverse_kl,
        "KL(q || skew q + (1 - skew) p)",
        "reverse_kl at skew = 0, 0 at skew = 1; finite for skew > 0",
        "Ko et al. 2024 (DistiLLM), arXiv:2402.03898",
        {"skew": Parameter(0.1, **_WEIGHT)},
    ),
    "total_variation": Divergence(
        total_variation,
        "1/2 sum_v |p_v - q_v|",
        "in [0, 1]; 1 minus it is the expected acceptance rate of speculative decoding",
        "Wen et al. 2023 (f-distill), arXiv:2307.15190",
    ),
    "hellinger": Divergence(
        hellinger,
        "1/2 sum_v (sqrt(p_v) - sqrt(q_v))^2",
        "in [0, 1]; a quarter of alpha_beta at (1/2, 1/2)",
        "Hellinger 1909; as a member of a family, Amari 2009",
    ),
    "alpha_beta": Divergence(
        alpha_beta,
        "-1 / (a b) sum_v [p^a q^b - a / (a + b) p^(a + b) - b / (a + b) q^(a + b)]",
        "forward_kl at (1, 0), reverse_kl at (0, 1), four times hellinger at "
        "(1/2, 1/2), half the squared distance at (1, 1); a + b > 0; with a or b "
        "between 0 and 0.001 float32 loses digits",
        "Wang et al. 2025 (ABKD), arXiv:2505.04560",
        {"a": Parameter(1.0, 0.0, 8.0), "b": Parameter(1.0, 0.0, 8.0)},
    ),
    "adaptive_kl": Divergence(
        adaptive_kl,
        "s KL(p || q) + (1 - s) KL(q || p); s: the share of sum_v |p_v - q_v| that "
        "lies in the head, the likeliest ids of the teacher whose mass reaches mu; no "
        "gradient flows through s",
        f"forward_kl at mu = 1; {_INFINITE_FORWARD}, and the reverse",
        "Wu et al. 2024 (AKL), arXiv:2404.02657",
        {"mu": Parameter(0.5, **_WEIGHT)},
    ),
    "taid": Divergence(
        taid,
        "KL(r || q), r = softmax of (1 - t) (the student's logits, without gradient) "
        "+ t (the teacher's)",
        "0 at t = 0, forward_kl at t = 1; t is meant to rise while training",
        "Shing et al. 2025 (TAID), arXiv:2501.16937",
        {"t": Parameter(0.5, **_WEIGHT)},
    ),
    "decoupled_kd": Divergence(
        decoupled_kd,
        "a KL of (label, not label) + b KL of the other ids among themselves",
        "forward_kl where a = 1 and b = 1 - p(label); the paper's b is 8",
        "Zhao et al. 2022 (DKD), arXiv:2203.08679",
        {"a": Parameter(1.0, 0.0, 100.0), "b": Parameter(1.0, 0.0, 100.0)},
        needs_labels=True,
    ),
    "logit_mse": Divergence(
        logit_mse,
        "1 / (2 V) sum_v ((s_v - mean s) - (t_v - mean t))^2 of tempered logits s, t",
        "temperature^2 forward_kl tends to temperature^2 times it as the temperature "
        "grows; ids that either side excludes are left out",
        "Ba and Caruana 2014, arXiv:1312.6184; Hinton et al. 2015, section 2.1",
    ),
}


def check_parameters(kind: str, parameters: Mapping[str, ScalarLike]) -> None:
    """Raises unless the divergence exists and accepts these parameters.

    Args:
        kind: A name in `DIVERGENCES`.
        parameters: Its parameters; the range of traced ones cannot be checked.

    Raises:
        ValueError: It does not exist, has no such parameter, or a value is out of
            range.
    """
    if kind not in DIVERGENCES:
        listed = ", ".join(DIVERGENCES)
        raise ValueError(f"unknown divergence {kind!r}; choose one of: {listed}")
    known = DIVERGENCES[kind].parameters
    for name, value in parameters.items():
        if name not in known:
            takes = ", ".join(known) or "none"
            raise ValueError(f"{kind} has no parameter {name!r}; it takes: {takes}")
        _, low, high = known[name]
        if isinstance(value, float) and not low <= value <= high:
            raise ValueError(
                f"{kind}'s {name} must be in [{low:g}, {high:g}]; it is {value:g}"
            )
    if kind == "alpha_beta":
        ends = {name: parameters.get(name, p.default) for name, p in known.items()}
        if all(isinstance(v, float) and v == 0.0 for v in ends.values()):
            raise ValueError("alpha_beta needs a + b > 0; both are 0")


def divergence(
    student_logits: Float[Array, "*batch V"],
    teacher_logits: Float[Array, "*batch V"],
    *,
    kind: str,
    temperature: Number = 1.0,
    labels: Int[Array, "*batch"] | None = None,
    **parameters: Number,
) -> Float[Array, "*batch"]:
    r"""Returns the divergence between teacher and student, per token.

    With :math:`p = \mathrm{softmax}(t / \tau)` and
    :math:`q = \mathrm{softmax}(s / \tau)`, computes ``DIVERGENCES[kind].formula``. Both
    softmaxes run in float32 whatever the logits' dtype. An id whose logit is ``-inf``
    on both sides (vocabulary padding) adds nothing. No gradient reaches the teacher.

    Args:
        student_logits: Unnormalised student scores.
        teacher_logits: Unnormalised teacher scores over the same vocabulary.
        kind: A name in `DIVERGENCES`.
        temperature: Softening temperature, strictly positive.
        labels: The true ids, all within the vocabulary, for the kinds that need them.
        **parameters: Parameters of that kind; those omitted take their defaults.

    Returns:
        One float32 value per token, non-negative up to rounding.

    Raises:
        ValueError: `kind` is not in the table, a parameter is unknown or out of range,
            or the temperature is not positive.

    Example:
        >>> teacher = jnp.log(jnp.array([[0.75, 0.25]]))
        >>> kl = divergence(jnp.zeros((1, 2)), teacher, kind="forward_kl")
        >>> round(float(kl[0]), 4)
        0.1308
    """
    softened, values = as_float(temperature), as_floats(parameters)
    check_parameters(kind, values)
    check_temperature(softened)
    over = Vocabulary()
    q = over.softmax(tempered(student_logits, softened))
    p = over.softmax(lax.stop_gradient(tempered(teacher_logits, softened)))
    return compare(p, q, over, labels, kind=kind, **values)


def compare(
    p: Distribution,
    q: Distribution,
    over: Vocabulary,
    labels: Int[Array, "*batch"] | None,
    *,
    kind: str,
    **parameters: ScalarLike,
) -> Float[Array, "*batch"]:
    """Returns the divergence between distributions over the local ids.

    Raises:
        ValueError: The kind needs labels and none are given.
    """
    row = DIVERGENCES[kind]
    defaults = {name: parameter.default for name, parameter in row.parameters.items()}
    values = defaults | parameters
    if not row.needs_labels:
        return row.function(p, q, over, **values)
    if labels is None:
        raise ValueError(f"{kind} needs labels")
    return row.function(p, q, over, labels=labels, **values)


def as_float(value: Number) -> ScalarLike:
    """Returns a Python or NumPy number as a float, a traced one unchanged.

    Some formulas compare their parameters with the ends of their ranges.
    """
    if isinstance(value, int | float | np.generic):
        return float(cast(float, value))
    return value


def as_floats(values: Mapping[str, Number]) -> dict[str, ScalarLike]:
    """Returns `as_float` of each value."""
    return {name: as_float(value) for name, value in values.items()}


def check_temperature(temperature: ScalarLike) -> None:
    """Raises unless the temperature is positive; a traced one cannot be checked."""
    if isinstance(temperature, float) and not 0.0 < temperature < float("inf"):
        raise ValueError(f"temperature must be > 0; it is {temperature:g}")


def tempered(
    logits: Float[Array, "*batch V"], temperature: ScalarLike
) -> Float[Array, "*batch V"]:
    """Returns logits / temperature in float32."""
    logits = logits.astype(jnp.float32)
    is_one = isinstance(temperature, float) and temperature == 1.0
    return logits if is_one else logits * (1.0 / temperature)
