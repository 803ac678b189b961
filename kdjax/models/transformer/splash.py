"""Causal attention within segments on TPUs, by Pallas's splash attention kernel.

No [T, T] array is ever made: scores live in one block at a time, and blocks that the
mask leaves nothing of are passed over (arXiv:2205.14135; the kernel is jax's own).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

CONTEXT = "context"  # names what the kernel's backward pass needs of its forward pass

_LANES = 128  # blocks are multiples of it
_LARGEST = 1024  # of a block of queries or keys; more does not fit beside the rest
# The fused backward kernel writes the queries' gradient once for each block of keys.
_FUSED = 8  # blocks, from which on two kernels take less memory
_PADDING = -1  # the segment of positions that are added


def attend_blockwise(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B T G K"],
    value: Float[Array, "B T G K"],
    segments: Int[Array, "B T"],
    *,
    scale: float,
    softcap: float,
    window: int,
    interpret: bool = False,
) -> Float[Array, "B T H K"]:
    """Returns causal attention within segments, of one device's rows and heads.

    Args:
        query: One vector per head.
        key: One vector per key-value head; H is a multiple of G.
        value: One vector per key-value head.
        segments: Positions attend to those of their own segment.
        scale: Factor on the scores.
        softcap: c in c * tanh(score / c); 0: no cap.
        window: How many positions each attends to, its own included; 0: all.
        interpret: Whether to run the kernel's operations without a TPU, slowly.
    """
    length = query.shape[1]
    block, padded = _blocks(length)
    kernel = _kernel(padded, block, query.shape[2], softcap, window, interpret)

    def padding(x: Array, fill: int = 0) -> Array:
        widths = [(0, 0), (0, padded - length), *[(0, 0)] * (x.ndim - 2)]
        return jnp.pad(x, widths, constant_values=fill) if padded > length else x

    def one(q: Array, k: Array, v: Array, ids: Array) -> Array:
        from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

        return kernel(q, k, v, SegmentIds(ids, ids))

    q, k, v = (
        padding(x).swapaxes(1, 2)
        for x in (query * jnp.asarray(scale, query.dtype), key, value)
    )
    mixed: Array = jax.vmap(one)(q, k, v, padding(segments, _PADDING))
    return mixed.swapaxes(1, 2)[:, :length]


def _blocks(length: int) -> tuple[int, int]:
    """Returns the size of a block, and the length as a multiple of it."""
    block = _LANES
    while block < min(length, _LARGEST):
        block *= 2
    # Half a block of padding costs more than two blocks of half the size.
    while block > _LANES and -length % block >= block // 2:
        block //= 2
    return block, length + -length % block


@functools.lru_cache(maxsize=64)
def _mask(length: int, window: int) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    shape = (length, length)
    if not window or window >= length:
        return masks.CausalMask(shape)
    return masks.LocalMask(shape, (window - 1, 0), 0)


def _kernel(
    length: int, block: int, heads: int, softcap: float, window: int, interpret: bool
) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    inner = min(block, _LARGEST // 2)
    is_fused = length // block <= _FUSED
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=inner,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=inner,
        block_q_dq=None if is_fused else block,
        block_kv_dq=None if is_fused else block,
        use_fused_bwd_kernel=is_fused,
    )
    return splash.make_splash_mha(
        mask=masks.MultiHeadMask([_mask(length, window)] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap or None,
        residual_checkpoint_name=CONTEXT,
        interpret=interpret,
    )
