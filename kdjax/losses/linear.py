"""The common cases of the losses: one student, and one teacher or none."""

from jaxtyping import Array, Float, Int

from kdjax.losses.divergences import as_float
from kdjax.losses.formulas import Number
from kdjax.losses.fused import SoftValues, fused_loss
from kdjax.losses.head import Head
from kdjax.losses.plan import LossSharding
from kdjax.losses.reference import Parts, check_alpha
from kdjax.losses.targets import FromHidden
from kdjax.losses.token_metrics import token_metrics


def linear_distillation(
    student_hidden: Float[Array, "*batch Ds"],
    student_head: Head,
    teacher_hidden: Float[Array, "*batch Dt"],
    teacher_head: Head,
    labels: Int[Array, "*batch"],
    weights: Float[Array, "*batch"],
    *,
    alpha: Number,
    temperature: Number,
    kind: str = "forward_kl",
    chunk_size: int | None = None,
    sharding: LossSharding | None = None,
    **parameters: Number,
) -> tuple[Float[Array, ""], Parts]:
    """Returns the weighted SUM of `distillation_loss`, from hidden states and heads.

    This is `fused_loss` with one teacher in the step and `hard` = 1 - alpha.

    Args:
        student_hidden: The student's last hidden states.
        student_head: The student's head.
        teacher_hidden: The teacher's last hidden states; its width may differ.
        teacher_head: The teacher's head.
        labels: As for `fused_loss`.
        weights: As for `fused_loss`.
        alpha: Weight of the SOFT loss, in [0, 1]. A Python 1 or 0 omits the hard
            or the soft loss from the gradient altogether.
        temperature: Softening temperature of both distributions, > 0.
        kind: A name in `DIVERGENCES`.
        chunk_size: As for `fused_loss`.
        sharding: As for `fused_loss`.
        **parameters: The divergence's parameters; those omitted take their defaults.

    Returns:
        The weighted sum, and the per-token parts, whose `soft` is a single array.

    Raises:
        ValueError: As for `fused_loss`, or alpha is not in [0, 1].
    """
    alpha = as_float(alpha)
    check_alpha(alpha)
    loss, parts = fused_loss(
        student_hidden,
        student_head,
        labels,
        weights,
        {"teacher": FromHidden(teacher_hidden, teacher_head)},
        hard=1.0 - alpha,
        soft={"teacher": SoftValues(kind, alpha, temperature, parameters)},
        chunk_size=chunk_size,
        sharding=sharding,
    )
    return loss, Parts(parts.hard, parts.soft["teacher"])


def linear_cross_entropy(
    hidden: Float[Array, "*batch D"],
    head: Head,
    labels: Int[Array, "*batch"],
    weights: Float[Array, "*batch"],
    *,
    chunk_size: int | None = None,
    sharding: LossSharding | None = None,
) -> tuple[Float[Array, ""], Float[Array, "*batch"]]:
    """Returns the weighted SUM of the hard loss, and the loss per token for metrics.

    This is `fused_loss` without a target; the arguments are the same.

    Raises:
        ValueError: Hidden states and head differ in width.
    """
    loss, parts = fused_loss(
        hidden,
        head,
        labels,
        weights,
        {},
        hard=1.0,
        soft={},
        chunk_size=chunk_size,
        sharding=sharding,
    )
    return loss, parts.hard


def linear_metrics(
    student_hidden: Float[Array, "*batch Ds"],
    student_head: Head,
    labels: Int[Array, "*batch"],
    teacher_hidden: Float[Array, "*batch Dt"] | None = None,
    teacher_head: Head | None = None,
    *,
    chunk_size: int | None = None,
    sharding: LossSharding | None = None,
) -> dict[str, Float[Array, "*batch"]]:
    """Returns `token_metrics` of a student and, optionally, a teacher in the step.

    Raises:
        ValueError: Widths differ, or vocabularies differ by more than padding.
    """
    teacher = None
    if teacher_hidden is not None and teacher_head is not None:
        teacher = FromHidden(teacher_hidden, teacher_head)
    student = FromHidden(student_hidden, student_head)
    return token_metrics(
        student, labels, teacher, chunk_size=chunk_size, sharding=sharding
    )
