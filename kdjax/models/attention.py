"""Attention kernels behind one seam, and the positions and masks they need."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def attend(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B T G K"],
    value: Float[Array, "B T G K"],
    mask: Bool[Array, "B 1 T T"],
    *,
    implementation: Literal["auto", "xla", "cudnn"] = "auto",
) -> Float[Array, "B T H K"]:
    """Returns scaled dot-product attention; every kernel is chosen here.

    Args:
        query: One vector per head.
        key: One vector per key-value head; H is a multiple of G.
        value: Likewise.
        mask: True where attention is allowed.
        implementation: "auto" leaves the choice to jax.
    """
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=mask,
        implementation=None if implementation == "auto" else implementation,
    )


def causal_mask(segments: Int[Array, "B T"]) -> Bool[Array, "B 1 T T"]:
    """Returns where a position may look: backwards, within its own segment."""
    length = segments.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    same = segments[:, :, None] == segments[:, None, :]
    return (causal[None] & same)[:, None]


def segment_positions(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Returns each token's position in its own segment, from 0.

    Example:
        >>> segment_positions(jnp.array([[1, 1, 1, 2, 2, 0]])).tolist()
        [[0, 1, 2, 0, 1, 0]]
    """
    index = jnp.broadcast_to(jnp.arange(segments.shape[1]), segments.shape)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def rope_angles(
    positions: Int[Array, "B T"], width: int, theta: float
) -> Float[Array, "B T R"]:
    """Returns the rotation angles of `width / 2` frequencies (arXiv:2104.09864)."""
    exponents = jnp.arange(0, width, 2, dtype=jnp.float32) / width
    frequencies = theta**-exponents
    return positions[..., None].astype(jnp.float32) * frequencies[None, None]


def rotate(
    x: Float[Array, "B T H K"], angles: Float[Array, "B T R"]
) -> Float[Array, "B T H K"]:
    """Rotates the first 2R of each head's dimensions, in halves; the rest pass."""
    half = angles.shape[-1]
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second, rest = jnp.split(x.astype(jnp.float32), (half, 2 * half), axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin, rest)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
