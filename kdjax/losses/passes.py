"""Passes over a batch's tokens: what a function of logits gives, and its gradient.

A chunk's logits are the largest array of a language model's loss. `each_token` holds
one chunk of them at a time; `each_gradient` also turns a chunk's logits into gradients
while it has them, so that they are neither kept nor computed twice. On a mesh every
device processes its own tokens and ids.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from kdjax.losses.chunks import default_size, scan_tokens
from kdjax.losses.head import Head, finish, mask, project
from kdjax.losses.plan import Inputs, LossSharding, Plan
from kdjax.losses.targets import IDS, FromHidden, part

Chunk = Callable[[Any, Inputs], tuple[Any, Any]]


def each_token(plan: Plan, inputs: Inputs) -> Any:
    """Returns `plan.function` of every token, holding one chunk's logits at a time."""

    def local(inputs: Inputs) -> Any:
        def chunk(carry: tuple[()], inputs: Inputs) -> tuple[tuple[()], Any]:
            model, over = inputs.model, plan.over
            logits = model.logits(over, plan.local_size, plan.real[""])
            taught = _target_logits(plan, inputs)
            values = plan.function(logits, taught, inputs.labels, inputs.scalars, over)
            return carry, values

        return _scan(plan, chunk, (), inputs)[1]

    return _sharded(plan, local, inputs, gradients=False)


def each_gradient(
    plan: Plan, inputs: Inputs, *, kernel: bool, bias: bool
) -> tuple[Any, FromHidden]:
    """Returns `each_token`'s values, and the model's gradients of the weighted sum.

    Args:
        plan: What to compute.
        inputs: What to compute it on; the model is a `FromHidden`.
        kernel: Whether the head's matrix needs a gradient, which is float32 whatever
            the matrix's dtype, as many chunks are summed.
        bias: Whether the head's bias needs a gradient.
    """
    sharding = plan.sharding
    is_scattered = sharding is not None and _is_scattered(inputs.model, sharding)

    def local(inputs: Inputs) -> tuple[Any, FromHidden]:
        head = inputs.model.head

        def chunk(sums: Any, inputs: Inputs) -> tuple[Any, Any]:
            values, grad = _chunk_gradient(plan, inputs)
            hidden = inputs.model.hidden
            narrow = grad.astype(hidden.dtype)
            sums = jax.tree.map(
                jnp.add,
                sums,
                (
                    _dot(hidden, narrow, 0, 0) if kernel else None,
                    grad.sum(0) if bias else None,
                ),
            )
            back = _dot(narrow, head.kernel, 1, 1)
            if sharding:
                back = lax.psum(back, sharding.vocabulary)
            return sums, (values, back.astype(hidden.dtype))

        zeros = (
            jnp.zeros(head.kernel.shape, jnp.float32) if kernel else None,
            jnp.zeros(head.bias.shape, jnp.float32) if bias else None,
        )
        if sharding:
            axes = (*sharding.tokens, sharding.vocabulary)
            zeros = jax.tree.map(lambda x: lax.pcast(x, axes, to="varying"), zeros)
        sums, (values, grad_hidden) = _scan(plan, chunk, zeros, inputs, guarded=True)
        grad_kernel, grad_bias = sums
        if sharding and kernel:
            grad_kernel = _reduce_scatter(grad_kernel, sharding, is_scattered)
        if sharding and bias:
            grad_bias = lax.psum(grad_bias, sharding.tokens)
        return values, model_like(inputs.model, grad_hidden, grad_kernel, grad_bias)

    return _sharded(plan, local, inputs, gradients=True)


def model_like(model: FromHidden, hidden: Any, kernel: Any, bias: Any) -> FromHidden:
    """Returns the model's tree with other leaves."""
    return FromHidden(hidden, dataclasses.replace(model.head, kernel=kernel, bias=bias))


def _chunk_gradient(plan: Plan, inputs: Inputs) -> tuple[Any, Float[Array, "N V"]]:
    """Returns a chunk's values, and the gradient with respect to its logits."""
    head: Head = inputs.model.head
    taught, over = _target_logits(plan, inputs), plan.over

    def loss(raw: Array) -> tuple[Array, Any]:
        logits = mask(finish(raw, head.scale, head.softcap), plan.real[""], over)
        values = plan.function(logits, taught, inputs.labels, inputs.scalars, over)
        return values[0], values

    raw = project(inputs.model.hidden, head.kernel, head.bias)
    _, pull, values = jax.vjp(loss, raw, has_aux=True)
    return values, pull(inputs.weights)[0]


def _dot(x: Array, y: Array, x_axis: int, y_axis: int) -> Float[Array, "M N"]:
    """Returns the product over one axis of each, accumulated in float32."""
    axes = (((x_axis,), (y_axis,)), ((), ()))
    return lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)


def _target_logits(plan: Plan, inputs: Inputs) -> dict[str, Array]:
    """Returns the targets' logits over the ids that they and the model know."""
    return {
        name: each.logits(plan.over, plan.local_size, plan.real[name])
        for name, each in inputs.targets.items()
    }


def _scan(
    plan: Plan, chunk: Chunk, carry: Any, inputs: Inputs, *, guarded: bool = False
) -> tuple[Any, Any]:
    """Returns what a scan of `chunk` over chunks of the inputs gives."""
    parted = part(inputs.models)
    widths = [leaf.shape[0] for leaf in part({"": inputs.model}).ids if leaf.ndim > 1]
    size = plan.chunk_size or default_size(
        inputs.labels.size, max(widths, default=0), plan.local_size, plan.platform
    )

    def one(carry: Any, tokens: Any) -> tuple[Any, Any]:
        leaves, labels, weights = _guarded(tokens) if guarded else tokens
        models = parted.joined(leaves, parted.ids)
        return chunk(carry, inputs.replaced(models, labels, weights))

    tokens = parted.tokens, inputs.labels, inputs.weights
    return scan_tokens(one, carry, tokens, inputs.labels.shape, size)


def _guarded(tokens: Any) -> Any:
    """Returns a chunk's arrays, empty where the weight is 0, ready for products.

    An excluded token must not bring NaN or infinity into the sums. Its gradient is then
    0 as well, without another pass over [tokens, vocabulary].
    """
    leaves, labels, weights = tokens

    def cleared(x: Array) -> Array:
        is_out = jnp.expand_dims(weights == 0.0, range(1, x.ndim))
        nothing = -1 if jnp.issubdtype(x.dtype, jnp.integer) else 0  # -1: no id
        return jnp.where(is_out, jnp.asarray(nothing, x.dtype), x)

    # XLA for TPUs tiles products badly when a slice is fused into them: the product
    # for the head's gradient would take 1.4 times as long.
    return lax.optimization_barrier(([cleared(x) for x in leaves], labels, weights))


def _sharded(
    plan: Plan, local: Callable[[Inputs], Any], inputs: Inputs, *, gradients: bool
) -> Any:
    """Returns `local(inputs)`, run on every device's own tokens and ids."""
    sharding = plan.sharding
    if sharding is None:
        return local(inputs)
    tokens = P(sharding.tokens)

    def place(kind: str, leaf: Array) -> P:
        last = (*(None,) * (leaf.ndim - 1), sharding.vocabulary)
        return P(*last) if kind == IDS else tokens

    layouts = {name: each.layout() for name, each in inputs.models.items()}
    placed = jax.tree.map(place, layouts, inputs.models)
    out: Any = tokens
    if gradients:
        model, axis = placed[""], sharding.tokens[-1]
        first = axis if _is_scattered(inputs.model, sharding) else None
        kernel = P(first, sharding.vocabulary)
        out = tokens, model_like(model, tokens, kernel, model.head.bias)
    sharded = jax.shard_map(
        local,
        mesh=sharding.mesh,
        axis_names={*sharding.tokens, sharding.vocabulary},
        in_specs=(inputs.replaced(placed, tokens, tokens)._replace(scalars=P()),),
        out_specs=out,
    )
    return sharded(inputs)


def _is_scattered(model: FromHidden, sharding: LossSharding) -> bool:
    """Returns whether the matrix's gradient divides over the last token axis."""
    size = sharding.mesh.shape[sharding.tokens[-1]]
    return model.head.kernel.shape[0] % size == 0


def _reduce_scatter(x: Array, sharding: LossSharding, is_scattered: bool) -> Array:
    """Returns the sum over the token shards, sharded along the last token axis."""
    *first, last = sharding.tokens
    x = lax.psum(x, tuple(first)) if first else x
    if is_scattered:
        return lax.psum_scatter(x, last, scatter_dimension=0, tiled=True)
    return lax.psum(x, last)
