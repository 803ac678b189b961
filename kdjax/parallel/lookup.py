"""Rows of a sharded table, exchanged instead of the table."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from kdjax.parallel.manual import on_each_device


def look_up(
    table: Float[Array, "V D"],
    tokens: Int[Array, "B T"],
    dtype: Any,
    mesh: Mesh,
) -> Float[Array, "B T D"]:
    """Returns `table[tokens]`, for ids sharded over `tensor` and widths over `fsdp`.

    Each device looks up, in its part of the table, the tokens of all devices with which
    it shares the rows of a batch, and gets back its own rows whole. The gradient goes
    the same way back.

    Args:
        table: A row for each id.
        tokens: Ids, sharded over `data` and `fsdp`, which divide B.
        dtype: That of the result.
        mesh: With the axes `data`, `fsdp` and `tensor`.
    """
    rows = ("data", "fsdp")
    is_cut = mesh.shape["tensor"] > 1
    is_scattered = not tokens.shape[1] % mesh.shape["tensor"]

    def local(table: Array, tokens: Array) -> Array:
        tokens = jax.lax.all_gather(tokens, "fsdp", tiled=True)
        ids = tokens - jax.lax.axis_index("tensor") * table.shape[0]
        found = table.at[ids].get(mode="clip").astype(dtype)
        if is_cut:
            is_here = (ids >= 0) & (ids < table.shape[0])
            found = jnp.where(is_here[..., None], found, 0)
        if is_scattered:
            found = jax.lax.psum_scatter(
                found, "tensor", scatter_dimension=1, tiled=True
            )
        else:
            found = jax.lax.psum(found, "tensor")
        return jax.lax.all_to_all(
            found, "fsdp", split_axis=0, concat_axis=2, tiled=True
        )

    return on_each_device(
        local,
        mesh,
        in_specs=(P("tensor", "fsdp"), P(rows)),
        out_specs=P(rows, "tensor" if is_scattered else None),
    )(table, tokens)
