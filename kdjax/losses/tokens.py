"""Going through a batch's tokens in chunks, on every device its own.

A chunk's logits are the largest array of a language model's loss. `each_token` holds
one chunk of them at a time; `each_gradient` also turns a chunk's logits into gradients
while it has them, so that they are neither kept nor computed twice.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from kdjax.losses.head import finish, mask, project
from kdjax.losses.plan import HeadOptions, Inputs, LossSharding, Plan, Side

_LEAST_BYTES = 2**25  # of a chunk's logits; smaller ones are not worth a loop


def each_token(plan: Plan, inputs: Inputs) -> Any:
    """Returns `plan.function` of every token, holding one chunk's logits at a time."""

    def local(inputs: Inputs) -> Any:
        def chunk(carry: tuple[()], tokens: Any) -> tuple[tuple[()], Any]:
            hidden, teacher_hidden, labels, _ = tokens
            student = _logits(plan, plan.student, hidden, inputs.student)
            teacher = _logits(plan, plan.teacher, teacher_hidden, inputs.teacher)
            values = plan.function(student, teacher, labels, inputs.scalars, plan.over)
            return carry, values

        return _scan(plan, chunk, (), inputs)[1]

    return _spread(plan, local, inputs, gradients=False)


def each_gradient(
    plan: Plan, inputs: Inputs, *, kernel: bool, bias: bool
) -> tuple[Any, Side]:
    """Returns `each_token`'s values, and the student's gradients of the weighted sum.

    Args:
        plan: What to compute.
        inputs: On what.
        kernel: Whether the head's matrix needs its gradient; float32 whatever the
            matrix is, as many chunks are summed.
        bias: Whether its bias does.
    """
    sharding = plan.sharding
    is_cut = sharding is not None and _is_cut(inputs.student, sharding)

    def local(inputs: Inputs) -> tuple[Any, Side]:
        side = inputs.student

        def chunk(sums: Any, tokens: Any) -> tuple[Any, Any]:
            # XLA for TPUs tiles products badly that have a slice fused into them: that
            # of the head's gradient would take 1.4 times as long.
            tokens = lax.optimization_barrier(_without_left_out(tokens))
            values, grad = _chunk_gradient(plan, inputs, tokens)
            hidden = tokens[0]
            narrow = grad.astype(hidden.dtype)
            sums = jax.tree.map(
                jnp.add,
                sums,
                (
                    _dot(hidden, narrow, 0, 0) if kernel else None,
                    grad.sum(0, keepdims=True) if bias else None,
                ),
            )
            back = _dot(narrow, side.kernel, 1, 1)
            if sharding:
                back = lax.psum(back, sharding.vocabulary)
            return sums, (values, back.astype(hidden.dtype))

        zeros = (
            jnp.zeros(side.kernel.shape, jnp.float32) if kernel else None,
            jnp.zeros((1, side.kernel.shape[1]), jnp.float32) if bias else None,
        )
        if sharding:
            axes = (*sharding.tokens, sharding.vocabulary)
            zeros = jax.tree.map(lambda x: lax.pcast(x, axes, to="varying"), zeros)
        sums, (values, grad_hidden) = _scan(plan, chunk, zeros, inputs)
        grad_kernel, grad_bias = sums
        if sharding and kernel:
            grad_kernel = _reduce_scatter(grad_kernel, sharding, is_cut=is_cut)
        if sharding and bias:
            grad_bias = lax.psum(grad_bias, sharding.tokens)
        return values, Side(grad_hidden, grad_kernel, grad_bias)

    return _spread(plan, local, inputs, gradients=True)


def _without_left_out(tokens: Any) -> Any:
    """Returns a chunk's tokens, their hidden states 0 where the weight is.

    What is left out must not bring its NaN or infinity into the sums. Its gradient is
    0 then, too, without another look at [tokens, vocabulary].
    """
    hidden, teacher_hidden, labels, weights = tokens
    is_out = weights[:, None] == 0.0
    hidden, teacher_hidden = jax.tree.map(
        lambda x: jnp.where(is_out, 0.0, x), (hidden, teacher_hidden)
    )
    return hidden, teacher_hidden, labels, weights


def _chunk_gradient(
    plan: Plan, inputs: Inputs, tokens: Any
) -> tuple[Any, Float[Array, "N V"]]:
    """Returns a chunk's values, and the gradient of its logits."""
    hidden, teacher_hidden, labels, weights = tokens
    teacher = _logits(plan, plan.teacher, teacher_hidden, inputs.teacher)

    def loss(raw: Array) -> tuple[Array, Any]:
        student = _finished(plan, plan.student, raw)
        values = plan.function(student, teacher, labels, inputs.scalars, plan.over)
        return values[0], values

    raw = project(hidden, inputs.student.kernel, inputs.student.bias)
    _, pull, values = jax.vjp(loss, raw, has_aux=True)
    return values, pull(weights)[0]


def _dot(x: Array, y: Array, x_axis: int, y_axis: int) -> Float[Array, "M N"]:
    """Returns the product over one axis of each, accumulated in float32."""
    axes = (((x_axis,), (y_axis,)), ((), ()))
    return lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)


def _logits(
    plan: Plan, head: HeadOptions | None, hidden: Array | None, side: Side | None
) -> Array | None:
    if head is None or side is None or hidden is None:
        return None
    return _finished(plan, head, project(hidden, side.kernel, side.bias))


def _finished(plan: Plan, head: HeadOptions, raw: Array) -> Array:
    shards = plan.sharding.mesh.shape[plan.over.axis] if plan.sharding else 1
    logits = finish(raw, head.scale, head.softcap)
    return mask(logits, head.real, plan.over, raw.shape[-1] * shards)


def _scan(
    plan: Plan, chunk: Callable[[Any, Any], Any], carry: Any, inputs: Inputs
) -> tuple[Any, Any]:
    """Returns what `lax.scan` of `chunk` over the tokens does, tokens flattened."""
    shape = inputs.labels.shape
    tokens = (
        inputs.student.hidden,
        None if inputs.teacher is None else inputs.teacher.hidden,
        inputs.labels,
        inputs.weights,
    )
    count, (width, ids) = inputs.labels.size, inputs.student.kernel.shape
    size = plan.chunk_size or _default_chunk(count, width, ids)
    chunks = _even_chunks(count, size)
    size = -(-count // chunks)

    def split(x: Array) -> Array:
        x = x.reshape(count, *x.shape[len(shape) :])
        missing = chunks * size - count
        if missing:
            x = jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1)))
        return x.reshape(chunks, size, *x.shape[1:])

    def merge(x: Array) -> Array:
        x = x.reshape(chunks * size, *x.shape[2:])[:count]
        return x.reshape(*shape, *x.shape[1:])

    tokens = jax.tree.map(split, tokens)
    if chunks > 1:
        carry, values = lax.scan(chunk, carry, tokens)
    else:
        carry, values = chunk(carry, jax.tree.map(lambda x: x[0], tokens))
        values = jax.tree.map(lambda x: x[None], values)
    return carry, jax.tree.map(merge, values)


def _default_chunk(tokens: int, width: int, ids: int) -> int:
    """Returns how many tokens' logits may be held at a time.

    Both models' float32 logits of a chunk take half of what the accumulator of the
    head's gradient does, which must be held anyway: smaller chunks save nothing that
    is seen, and go through the accumulator more often.
    """
    return min(tokens, max(width // 4, _LEAST_BYTES // (8 * ids), 1))


def _even_chunks(tokens: int, size: int) -> int:
    """Returns a number of chunks of at most `size`, dividing the tokens if it can."""
    least = -(-tokens // size)
    even = (n for n in range(least, 2 * least) if tokens % n == 0)
    return next(even, least)


def _spread(
    plan: Plan, local: Callable[[Inputs], Any], inputs: Inputs, *, gradients: bool
) -> Any:
    """Returns `local(inputs)`, run on every device's own tokens and ids."""
    sharding = plan.sharding
    if sharding is None:
        return local(inputs)
    tokens, matrix = P(sharding.tokens), P(None, sharding.vocabulary)
    side = Side(tokens, matrix, matrix)
    out: Any = tokens
    if gradients:
        cut = sharding.tokens[-1] if _is_cut(inputs.student, sharding) else None
        out = tokens, side._replace(kernel=P(cut, sharding.vocabulary))
    spread = jax.shard_map(
        local,
        mesh=sharding.mesh,
        in_specs=(Inputs(side, inputs.teacher and side, tokens, tokens, P()),),
        out_specs=out,
    )
    return spread(inputs)


def _is_cut(student: Side, sharding: LossSharding) -> bool:
    """Returns whether the matrix's gradient divides over the last token axis."""
    return student.kernel.shape[0] % sharding.mesh.shape[sharding.tokens[-1]] == 0


def _reduce_scatter(x: Array, sharding: LossSharding, *, is_cut: bool) -> Array:
    """Returns the sum over token shards, cut along the last token axis if it can be."""
    *first, last = sharding.tokens
    x = lax.psum(x, tuple(first)) if first else x
    if is_cut:
        return lax.psum_scatter(x, last, scatter_dimension=0, tiled=True)
    return lax.psum(x, last)
