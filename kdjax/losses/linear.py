"""The losses from hidden states and heads, never holding [tokens, vocabulary].

A chunk's gradient is computed while its logits are there (as in Liger Kernel, Hsu et
al. 2024, arXiv:2410.10989): three products with the student's head and one with the
teacher's, and none of them twice.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from kdjax.losses.distillation import Parts, check_alpha, mix
from kdjax.losses.divergences import (
    as_floats,
    check_parameters,
    check_temperature,
    compare,
    tempered,
)
from kdjax.losses.formulas import Number
from kdjax.losses.head import Head, mask
from kdjax.losses.plan import Inputs, LossSharding, Plan, Side, narrow, prepare
from kdjax.losses.tokens import each_gradient, each_token
from kdjax.losses.vocabulary import Distribution, Vocabulary

IMPLEMENTATIONS = ("xla",)


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
    implementation: str = "xla",
    **parameters: Number,
) -> tuple[Float[Array, ""], Parts]:
    """Returns the weighted SUM of `distillation_loss`, from hidden states and heads.

    The caller divides by the weight of the global batch. Only the student's hidden
    states and head get a gradient, the head only where it is differentiated. Reverse
    mode only, and once: under `jax.checkpoint` all of it would be computed twice.

    Args:
        student_hidden: The student's last hidden states.
        student_head: The student's head.
        teacher_hidden: The teacher's last hidden states; its width may differ.
        teacher_head: The teacher's head. Where the heads disagree on how many ids are
            real, ids beyond the smaller vocabulary count on neither side.
        labels: The true ids; where they weigh something, real ids of the student.
        weights: What each token counts; 0 leaves it out, whatever it holds.
        alpha: Weight of the SOFT loss, in [0, 1]. A Python 0 or 1 leaves the other
            loss out of the gradient altogether.
        temperature: Softening temperature of both distributions, > 0.
        kind: A name in `DIVERGENCES`.
        chunk_size: How many tokens' logits a device holds at a time; None chooses by
            the memory they take.
        sharding: How to spread the work over a mesh: tokens over the batch's axes, ids
            over another. None leaves it to the compiler, right for one device.
        implementation: Which program computes it; one of `IMPLEMENTATIONS`.
        **parameters: The divergence's own; those left out have their default.

    Returns:
        The weighted sum, and the per-token parts, 0 where the weight is.

    Raises:
        ValueError: The divergence or a parameter is unknown or out of range, hidden
            states and heads differ in width, arrays in the tokens they are for, or
            the vocabularies by more than padding.
    """
    if implementation not in IMPLEMENTATIONS:
        listed = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"unknown implementation {implementation!r}; choose: {listed}")
    values = as_floats(parameters)
    check_parameters(kind, values)
    scalars = as_floats({"alpha": alpha, "temperature": temperature}) | values
    check_temperature(scalars["temperature"])
    check_alpha(scalars["alpha"])
    fixed = {k: v for k, v in scalars.items() if isinstance(v, float)}
    traced = {k: jnp.asarray(v) for k, v in scalars.items() if k not in fixed}
    return _weighted_sum(
        _mixture(kind, fixed, student_head.real, teacher_head.real),
        (student_hidden, student_head),
        (teacher_hidden, teacher_head),
        labels,
        weights,
        traced,
        chunk_size,
        sharding,
    )


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

    Arguments are those of `linear_distillation`.

    Raises:
        ValueError: Hidden states and head differ in width.
    """

    def cross_entropy(
        student: Array, teacher: None, labels: Array, scalars: Any, over: Vocabulary
    ) -> tuple[Array, Array]:
        hard = over.cross_entropy(over.softmax(student), labels)
        return hard, hard

    return _weighted_sum(
        cross_entropy, (hidden, head), None, labels, weights, {}, chunk_size, sharding
    )


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
    """Returns what an evaluation asks about every token, without gradients.

    "cross_entropy" with the labels; "confidence", the largest probability, and
    "correct", whether it is the label's. With a teacher also "forward_kl",
    "reverse_kl", "agreement" on the likeliest id, and "acceptance", the rate of
    speculative decoding, sum_v min(p_v, q_v) (Leviathan et al. 2023,
    arXiv:2211.17192). Arguments are those of `linear_distillation`.

    Raises:
        ValueError: Widths differ, or the vocabularies by more than padding.
    """
    teacher = None
    common = student_head.real
    if teacher_hidden is not None and teacher_head is not None:
        teacher = teacher_hidden, teacher_head
        common = min(common, teacher_head.real)

    def metrics(
        student_logits: Array,
        teacher_logits: Array | None,
        labels: Array,
        scalars: Any,
        over: Vocabulary,
    ) -> dict[str, Array]:
        q = over.softmax(student_logits)
        is_correct = over.argmax(student_logits) == labels
        values = {
            "cross_entropy": over.cross_entropy(q, labels),
            "confidence": over.max(q.probs),
            "correct": is_correct.astype(jnp.float32),
        }
        if teacher_logits is None or teacher_head is None:
            return values
        student_logits = mask(student_logits, common, over, student_head.real)
        teacher_logits = mask(teacher_logits, common, over, teacher_head.real)
        p, q = over.softmax(teacher_logits), over.softmax(student_logits)
        agree = over.argmax(student_logits) == over.argmax(teacher_logits)
        return values | {
            "forward_kl": compare(p, q, over, labels, kind="forward_kl"),
            "reverse_kl": compare(p, q, over, labels, kind="reverse_kl"),
            "agreement": agree.astype(jnp.float32),
            "acceptance": over.sum(jnp.minimum(p.probs, q.probs)),
        }

    sides = (student_hidden, student_head), teacher
    plan, inputs = prepare(metrics, *sides, labels, None, {}, chunk_size, sharding)
    return each_token(plan, narrow(inputs))


def _mixture(
    kind: str, fixed: dict[str, float], student_real: int, teacher_real: int
) -> Callable[..., tuple[Array, Parts]]:
    """Returns the function of logits that gives loss and parts per token."""
    common = min(student_real, teacher_real)

    def mixture(
        student: Array, teacher: Array, labels: Array, scalars: Any, over: Vocabulary
    ) -> tuple[Array, Parts]:
        values = dict(scalars, **fixed)
        alpha, temperature = values.pop("alpha"), values.pop("temperature")

        def soften(logits: Array, real: int) -> Distribution:
            logits = mask(logits, common, over, real)
            return over.softmax(tempered(logits, temperature))

        hard_q = over.softmax(student)
        hard = over.cross_entropy(hard_q, labels)
        is_same = common == student_real and fixed.get("temperature") == 1.0
        q = hard_q if is_same else soften(student, student_real)
        p = soften(teacher, teacher_real)
        soft = compare(p, q, over, labels, kind=kind, **values)
        return mix(hard, soft, alpha, temperature), Parts(hard, soft)

    return mixture


def _weighted_sum(
    function: Callable[..., tuple[Array, Any]],
    student: tuple[Array, Head],
    teacher: tuple[Array, Head] | None,
    labels: Array,
    weights: Array,
    scalars: dict[str, Array],
    chunk_size: int | None,
    sharding: LossSharding | None,
) -> tuple[Array, Any]:
    """Returns the weighted sum of the function's loss, and its parts per token."""
    plan, inputs = prepare(
        function, student, teacher, labels, weights, scalars, chunk_size, sharding
    )
    return _differentiable(plan, inputs)


def _reduced(values: tuple[Array, Any], weights: Array | None) -> tuple[Array, Any]:
    """Returns the weighted sum of the loss, and the parts; 0 where the weight is."""
    assert weights is not None

    def kept(x: Array) -> Array:
        return jnp.where(weights == 0.0, 0.0, x)

    loss, parts = jax.tree.map(kept, values)
    return jnp.sum(weights * loss), parts


# Outside of the `shard_map` and the scan, which are then never differentiated.
@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable(plan: Plan, inputs: Inputs) -> tuple[Array, Any]:
    return _reduced(each_token(plan, narrow(inputs)), inputs.weights)


def _forward(plan: Plan, inputs: Any) -> tuple[Any, Any]:
    is_asked = jax.tree.map(lambda x: x.perturbed, inputs.student)
    inputs = jax.tree.map(lambda x: x.value, inputs)
    values, gradients = each_gradient(
        plan,
        narrow(inputs),
        kernel=is_asked.kernel,
        bias=bool(is_asked.bias),
    )
    # Empty arrays carry the precision that the gradients must have in the end.
    dtypes = jax.tree.map(lambda x: jnp.zeros((0,), x.dtype), inputs.student)
    return _reduced(values, inputs.weights), (gradients, dtypes)


def _backward(plan: Plan, residuals: Any, cotangents: Any) -> tuple[Inputs]:
    gradients, dtypes = residuals
    scale, _ = cotangents  # the parts are for reading only

    def scaled(x: Array | None, like: Array) -> Array | None:
        if x is None or isinstance(scale, SymbolicZero):
            return None
        return (scale * x.astype(jnp.float32)).astype(like.dtype)

    student = Side(
        *(
            None if like is None else scaled(x, like)
            for x, like in zip(gradients, dtypes, strict=True)
        )
    )
    return (Inputs(student, None, None, None, None),)


_differentiable.defvjp(_forward, _backward, symbolic_zeros=True)
