"""Attention behind one interface, with its masks, positions and cache."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from kdjax.config.architecture import ModelConfig, RopeScalingConfig
from kdjax.models.transformer.kernels import CONTEXT, choose, run
from kdjax.parallel.placement import Placement


class View(NamedTuple):
    """Where queries and keys are, and which keys each query may attend to.

    Attributes:
        mask: [B, 1, T, S], true where a query may attend to a key. None: a kernel
            finds out by itself, so that nothing of this size is ever made.
        slots: [B or 1, T], the indices of the queries among the S keys.
        positions: [B, T], the positions of the queries in their own documents.
        angles: [B, T, R], rotation angles of queries and keys; None: no rotation.
        local_angles: The same for windowed layers, if their angles differ.
        segments: [B, T], the documents of queries and keys, if there is no cache.
        window: The window of one layer, if the layers' windows differ.
    """

    mask: Array | None
    slots: Array
    positions: Array
    angles: Array | None = None
    local_angles: Array | None = None
    segments: Array | None = None
    window: Array | None = None


class Cache(NamedTuple):
    """Keys and values of the positions so far: [N, B, S, G, K], or one layer's.

    Slot s of a row holds its position s. Slots beyond the positions that a row has
    reached are never attended to: padding is overwritten before it becomes visible.
    """

    keys: Array
    values: Array

    def write(
        self,
        key: Float[Array, "B T G K"],
        value: Float[Array, "B T G K"],
        slots: Int[Array, "B T"],
    ) -> "Cache":
        """Returns one layer's cache with the keys and values written to their slots."""
        where = jnp.arange(key.shape[0])[:, None], slots
        return Cache(self.keys.at[where].set(key), self.values.at[where].set(value))


def create_cache(config: ModelConfig, batch: int, length: int) -> Cache:
    """Returns an empty cache for all layers and rows of up to `length` positions."""
    heads = config.key_value_heads, config.width_of_head
    empty = jnp.zeros((config.layers, batch, length, *heads), config.dtype)
    return Cache(empty, empty)


def attend(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S G K"],
    value: Float[Array, "B S G K"],
    view: View,
    config: ModelConfig,
    placement: Placement,
) -> Float[Array, "B T H K"]:
    """Returns dot-product attention by the kernel that is chosen for it.

    Args:
        query: One vector per head.
        key: One vector per key-value head; H is a multiple of G.
        value: One vector per key-value head.
        view: What attends to what; as `make_view` has made it for this placement.
        config: The model's.
        placement: Where arrays live.
    """
    if view.mask is None:
        assert view.segments is not None and placement.devices is not None
        return run(
            *(query, key, value, view.segments, view.window),
            config=config,
            devices=placement.devices,
        )
    scale = (config.query_scalar or query.shape[-1]) ** -0.5
    if config.attention_softcap:
        cap = config.attention_softcap
        mixed = _attend_capped(query, key, value, view.mask, scale, cap)
    else:
        mixed = jax.nn.dot_product_attention(
            query,
            key,
            value,
            mask=view.mask,
            scale=scale,
            implementation="cudnn" if config.attention == "cudnn" else "xla",
        )
    return checkpoint_name(mixed, CONTEXT)


def _attend_capped(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S G K"],
    value: Float[Array, "B S G K"],
    mask: Bool[Array, "B 1 T S"],
    scale: float,
    softcap: float,
) -> Float[Array, "B T H K"]:
    """Returns attention with soft-capped scores, which JAX's function lacks."""
    batch, length, _, width = query.shape
    grouped = query.reshape(batch, length, key.shape[2], -1, width)
    scores = jnp.einsum(
        "btgmk,bsgk->bgmts", grouped, key, preferred_element_type=jnp.float32
    )
    scores = softcap * jnp.tanh(scores * (scale / softcap))
    scores = jnp.where(mask[:, :, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores).astype(value.dtype)
    return jnp.einsum("bgmts,bsgk->btgmk", weights, value).reshape(query.shape)


def make_view(
    config: ModelConfig, segments: Int[Array, "B T"], placement: Placement
) -> View:
    """Returns the view shared by all layers, before any window narrows it."""
    slots = jnp.arange(segments.shape[1])[None]
    positions = segment_positions(segments)
    angles, local = _angles(config, positions)
    mask = None
    if choose(config, placement, segments.shape) == "xla":
        mask = causal_mask(segments)
    return View(mask, slots, positions, angles, local, segments)


def make_cached_view(
    config: ModelConfig, positions: Int[Array, "B T"], length: int
) -> View:
    """Returns the view of a cache with `length` slots, one document per row.

    Padding needs no mask of its own: no position attends to a later one.
    """
    mask = positions[:, :, None] >= jnp.arange(length)[None, None]
    return View(mask[:, None], positions, positions, *_angles(config, positions))


def _angles(
    config: ModelConfig, positions: Int[Array, "B T"]
) -> tuple[Array | None, Array | None]:
    """Returns the RoPE angles, and those of windowed layers if they differ."""
    angles = local = None
    if config.positions == "rope":
        width = int(config.width_of_head * config.rope_fraction)
        angles = rope_angles(positions, width, config.rope_theta, config.rope_scaling)
        if config.local_rope_theta:
            local = rope_angles(positions, width, config.local_rope_theta)
    return angles, local


def narrow(view: View, window: Int[Array, ""]) -> View:
    """Returns the view of a layer whose window is `window` positions; 0: unlimited."""
    mask, angles = view.mask, view.angles
    if mask is not None:
        distance = view.slots[:, :, None] - jnp.arange(mask.shape[-1])[None, None]
        near = (distance < window) | (window == 0)
        mask = mask & near[:, None]
    if angles is not None and view.local_angles is not None:
        angles = jnp.where(window == 0, angles, view.local_angles)
    return view._replace(mask=mask, angles=angles, local_angles=None, window=window)


def causal_mask(segments: Int[Array, "B T"]) -> Bool[Array, "B 1 T T"]:
    """Returns the causal mask within segments: true where attention is allowed."""
    length = segments.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    same = segments[:, :, None] == segments[:, None, :]
    return (causal[None] & same)[:, None]


def segment_positions(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Returns each token's position within its segment, counted from 0.

    Example:
        >>> segment_positions(jnp.array([[1, 1, 1, 2, 2, 0]])).tolist()
        [[0, 1, 2, 0, 1, 0]]
    """
    index = jnp.broadcast_to(jnp.arange(segments.shape[1]), segments.shape)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def rope_angles(
    positions: Int[Array, "B T"],
    width: int,
    theta: float,
    scaling: RopeScalingConfig | None = None,
) -> Float[Array, "B T R"]:
    """Returns the rotation angles of `width / 2` frequencies (arXiv:2104.09864)."""
    exponents = jnp.arange(0, width, 2, dtype=jnp.float32) / width
    frequencies = theta**-exponents
    if scaling is not None and scaling.kind != "none":
        frequencies = _scale(frequencies, scaling)
    return positions[..., None].astype(jnp.float32) * frequencies[None, None]


def _scale(
    frequencies: Float[Array, "R"], scaling: RopeScalingConfig
) -> Float[Array, "R"]:
    """Returns frequencies divided by `factor`, high ones less (arXiv:2407.21783)."""
    kept = jnp.zeros_like(frequencies)
    if scaling.kind == "llama3":
        waves = frequencies * (scaling.original_length / (2 * math.pi))
        span = scaling.high_factor - scaling.low_factor
        kept = jnp.clip((waves - scaling.low_factor) / span, 0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def rotate(
    x: Float[Array, "B T H K"], angles: Float[Array, "B T R"]
) -> Float[Array, "B T H K"]:
    """Rotates the first 2R dimensions of each head, in halves; keeps the rest."""
    half = angles.shape[-1]
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second, rest = jnp.split(x.astype(jnp.float32), (half, 2 * half), axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin, rest)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
