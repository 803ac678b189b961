"""The distillation loss, soft targets and hard labels, from full logits.

This is the definition, and what the tests compare with; `fused.py` computes the same
values from hidden states without holding [tokens, vocabulary].
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax.losses.divergences import as_float, divergence
from kdjax.losses.formulas import Number, ScalarLike
from kdjax.losses.vocabulary import Vocabulary


class Parts(NamedTuple):
    """The loss's terms per token, for metrics; no gradient flows through them."""

    hard: Float[Array, "*batch"]  # cross-entropy with the labels, nats
    # Divergence from the teacher, nats; from `fused_loss`, one entry per target.
    soft: Float[Array, "*batch"] | Mapping[str, Float[Array, "*batch"]]


def hard_loss(
    logits: Float[Array, "*batch V"], labels: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Returns the cross-entropy with integer labels in float32 nats, per token."""
    over = Vocabulary()
    return over.cross_entropy(over.softmax(logits.astype(jnp.float32)), labels)


def distillation_loss(
    student_logits: Float[Array, "*batch V"],
    teacher_logits: Float[Array, "*batch V"],
    labels: Int[Array, "*batch"],
    *,
    alpha: Number,
    temperature: Number,
    kind: str = "forward_kl",
    **parameters: Number,
) -> Float[Array, "*batch"]:
    r"""Returns the mixture of soft-target and hard-label loss, per token.

    Computes :math:`\alpha \tau^2 D(p_\tau, q_\tau) + (1 - \alpha)\,\mathrm{CE}`. The
    factor :math:`\tau^2` keeps the soft gradient's scale independent of the
    temperature, so that `alpha` means the same at every `temperature`.

    Args:
        student_logits: Unnormalised student scores.
        teacher_logits: Unnormalised teacher scores over the same vocabulary.
        labels: The true ids, all within the vocabulary.
        alpha: Weight of the SOFT loss, in [0, 1].
        temperature: Softening temperature of both distributions, > 0.
        kind: A name in `DIVERGENCES`.
        **parameters: The divergence's parameters; those omitted take their defaults.

    Returns:
        One float32 value per token.

    Raises:
        ValueError: The divergence or a parameter is unknown, or a parameter, alpha or
            the temperature is out of range.

    References:
        Hinton et al., `Distilling the Knowledge in a Neural Network
        <https://arxiv.org/abs/1503.02531>`_, 2015, section 2.
    """
    weight, softened = as_float(alpha), as_float(temperature)
    check_alpha(weight)
    soft = divergence(
        student_logits,
        teacher_logits,
        kind=kind,
        temperature=softened,
        labels=labels,
        **parameters,
    )
    return mix(hard_loss(student_logits, labels), soft, weight, softened)


def check_alpha(alpha: ScalarLike) -> None:
    """Raises unless alpha is in [0, 1]; a traced one cannot be checked."""
    if isinstance(alpha, float) and not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in [0, 1]; it is {alpha:g}")


def mix(hard: Array, soft: Array, alpha: ScalarLike, temperature: ScalarLike) -> Array:
    """Returns `alpha * temperature**2 * soft + (1 - alpha) * hard`."""
    # Where alpha is a constant 0 or 1, the other loss must not cost a gradient: XLA
    # may not drop a product with zero, which could be NaN.
    if isinstance(alpha, float) and alpha == 1.0:
        return temperature**2 * soft
    if isinstance(alpha, float) and alpha == 0.0:
        return hard
    return alpha * temperature**2 * soft + (1.0 - alpha) * hard
