"""The distillation loss: soft targets and hard labels, from logits or hidden states."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from kdjax.losses.divergences import ScalarLike, divergence
from kdjax.losses.head import Head, apply_head, common_vocabulary


class Parts(NamedTuple):
    """The loss's ingredients per token, for metrics; no gradient flows through them."""

    hard: Float[Array, "*batch"]  # cross-entropy with the labels, nats
    soft: Float[Array, "*batch"]  # divergence from the teacher, nats


def hard_loss(
    logits: Float[Array, "*batch V"], labels: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Returns the cross-entropy with integer labels in float32 nats, per token."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), labels
    )


def distillation_loss(
    student_logits: Float[Array, "*batch V"],
    teacher_logits: Float[Array, "*batch V"],
    labels: Int[Array, "*batch"],
    *,
    alpha: ScalarLike,
    temperature: ScalarLike,
    kind: str = "forward_kl",
) -> Float[Array, "*batch"]:
    r"""Returns the mixture of soft-target and hard-label loss, per token.

    Computes :math:`\alpha \tau^2 D(p_\tau, q_\tau) + (1 - \alpha)\,\mathrm{CE}`. The
    factor :math:`\tau^2` keeps the soft gradient's scale independent of the
    temperature, so that `alpha` means the same at every `temperature`.

    Args:
        student_logits: Unnormalised student scores.
        teacher_logits: Unnormalised teacher scores over the same vocabulary.
        labels: The true ids.
        alpha: Weight of the SOFT loss, in [0, 1].
        temperature: Softening temperature of both distributions, > 0.
        kind: A name in `DIVERGENCES`.

    Returns:
        One float32 value per token.

    Raises:
        ValueError: `kind` is not in the table.

    References:
        Hinton et al., `Distilling the Knowledge in a Neural Network
        <https://arxiv.org/abs/1503.02531>`_, 2015, section 2.
    """
    soft = divergence(
        student_logits, teacher_logits, kind=kind, temperature=temperature
    )
    return _mix(hard_loss(student_logits, labels), soft, alpha, temperature)


def _mix(hard: Array, soft: Array, alpha: ScalarLike, temperature: ScalarLike) -> Array:
    # At a constant end of the mixture the other loss must not cost a gradient: XLA
    # may not drop a product with zero, which could be NaN.
    if isinstance(alpha, float) and alpha == 1.0:
        return temperature**2 * soft
    if isinstance(alpha, float) and alpha == 0.0:
        return hard
    return alpha * temperature**2 * soft + (1.0 - alpha) * hard


def linear_distillation(
    student_hidden: Float[Array, "*batch Ds"],
    student_head: Head,
    teacher_hidden: Float[Array, "*batch Dt"],
    teacher_head: Head,
    labels: Int[Array, "*batch"],
    weights: Float[Array, "*batch"],
    *,
    alpha: ScalarLike,
    temperature: ScalarLike,
    kind: str = "forward_kl",
) -> tuple[Float[Array, ""], Parts]:
    """Returns the weighted SUM of `distillation_loss`, from hidden states and heads.

    The caller divides by the weight of the global batch. Only the student's hidden
    states and head get a gradient. Logits of both models are held at once, [.., V]
    in float32.

    Args:
        student_hidden: The student's last hidden states.
        student_head: The student's head.
        teacher_hidden: The teacher's last hidden states; its width may differ.
        teacher_head: The teacher's head. Where the heads disagree on how many ids are
            real, ids beyond the smaller vocabulary count on neither side.
        labels: The true ids.
        weights: What each token counts; 0 leaves it out.
        alpha: Weight of the SOFT loss, in [0, 1].
        temperature: Softening temperature of both distributions, > 0.
        kind: A name in `DIVERGENCES`.

    Returns:
        The weighted sum and the per-token parts.

    Raises:
        ValueError: `kind` is not in the table.
    """
    student_logits = apply_head(student_head, student_hidden)
    teacher_logits = apply_head(teacher_head, jax.lax.stop_gradient(teacher_hidden))
    hard = hard_loss(student_logits, labels)
    soft = divergence(
        *common_vocabulary(student_logits, student_head, teacher_logits, teacher_head),
        kind=kind,
        temperature=temperature,
    )
    loss = jnp.sum(weights * _mix(hard, soft, alpha, temperature))
    return loss, jax.lax.stop_gradient(Parts(hard=hard, soft=soft))


def linear_cross_entropy(
    hidden: Float[Array, "*batch D"],
    head: Head,
    labels: Int[Array, "*batch"],
    weights: Float[Array, "*batch"],
) -> tuple[Float[Array, ""], Float[Array, "*batch"]]:
    """Returns the weighted SUM of the hard loss, and the loss per token for metrics."""
    hard = hard_loss(apply_head(head, hidden), labels)
    return jnp.sum(weights * hard), jax.lax.stop_gradient(hard)
