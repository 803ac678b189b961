"""Sums over the parts of a batch that are processed in turn."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from kdjax.losses import LossSharding
from kdjax.parallel.sharding import Batch


def accumulate(
    gradient: Callable[[Any, Batch], Any],
    params: Any,
    batch: Batch,
    parts: int,
    sharding: LossSharding | None,
) -> Any:
    """Returns the sum of `gradient(params, part)` over the parts of a batch.

    Along the mesh axes that shard the batch but no parameter, every device sums those
    of its own rows, and the sums are added up once, at the end: a reduction in each
    part would move as many bytes as all of them together.

    Args:
        gradient: Returns a tree of sums over the rows of its part.
        params: What it is the gradient of.
        batch: Arrays [B, ...].
        parts: How many there are; they divide the rows of each device.
        sharding: How the loss is sharded; its last axis over tokens shards parameters
            too. None: on one device.
    """
    if parts == 1:
        return gradient(params, batch)
    axes = () if sharding is None else sharding.tokens[:-1]
    if sharding is None or all(sharding.mesh.shape[axis] == 1 for axis in axes):
        return _sum(gradient, params, batch, parts)

    def of_own_rows(params: Any, batch: Batch) -> Any:
        return jax.lax.psum(_sum(gradient, params, batch, parts), axes)

    return jax.shard_map(
        of_own_rows,
        mesh=sharding.mesh,
        in_specs=(P(), P(axes)),
        out_specs=P(),
        axis_names=set(axes),
        check_vma=False,  # it would sum up the gradient in every part
    )(params, batch)


def _sum(
    gradient: Callable[[Any, Batch], Any],
    params: Any,
    batch: Batch,
    parts: int,
) -> Any:
    """Returns the sum over the parts."""

    # Strided slices, because contiguous ones would lie on a few devices only.
    def split(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(params, part)), None

    slices = jax.tree.map(split, batch)
    first = jax.tree.map(lambda x: x[0], slices)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(gradient, params, first),
    )
    total, _ = jax.lax.scan(add, zeros, slices)
    return total
