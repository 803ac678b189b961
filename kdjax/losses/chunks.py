"""How a device's tokens are processed: one chunk at a time, in a scan."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


class _Worth(NamedTuple):
    """How large a chunk must be to be worth an iteration of a loop.

    Attributes:
        tokens: So many tokens, whose products are fast,
        least: or as many as have logits of so many bytes,
        most: unless theirs take more bytes than this.
    """

    tokens: int
    least: int
    most: int


# Where matrix units outrun the memory in which a chunk's products find the head and its
# gradient.
_ACCELERATOR = _Worth(1024, 2**25, 2**29)
# More bytes than that do not stay in a CPU's caches, and are new memory each time.
_CPU = _Worth(256, 2**23, 2**25)


def scan_tokens(
    chunk: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    tokens: Any,
    shape: tuple[int, ...],
    size: int,
) -> tuple[Any, Any]:
    """Returns what `lax.scan` of `chunk` over chunks of the tokens would.

    Args:
        chunk: Maps (carry, a chunk's tokens) to (carry, one value per token).
        carry: The initial carry.
        tokens: A tree of arrays [*shape, ...].
        shape: The shape of the batch.
        size: The most tokens in a chunk.

    Returns:
        The final carry, and the values, [*shape, ...].
    """
    count = math.prod(shape)
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


def default_size(tokens: int, width: int, ids: int, platform: str) -> int:
    """Returns how many tokens' logits may be held at a time.

    Both models' float32 logits of a chunk take half the memory of the accumulator of
    the head's gradient, which must be held anyway: smaller chunks save no noticeable
    memory, and update the accumulator more often. A narrow head's accumulator is so
    small that chunks of its size would leave an accelerator waiting for memory: there
    they have 1,024 tokens, or as many as half a GiB of logits holds. A CPU needs 256.

    Args:
        tokens: How many tokens a device has.
        width: The width of the hidden states that the head reads.
        ids: How many of the vocabulary's ids a device has.
        platform: "cpu", "gpu" or "tpu".
    """
    each = 8 * ids  # bytes of a token's logits, of both models
    worth = _CPU if platform == "cpu" else _ACCELERATOR
    fast = min(max(worth.tokens, worth.least // each), worth.most // each)
    return min(tokens, max(width // 4, fast, 1))


def _even_chunks(tokens: int, size: int) -> int:
    """Returns a number of chunks of at most `size`, dividing the tokens if it can."""
    least = -(-tokens // size)
    even = (n for n in range(least, 2 * least) if tokens % n == 0)
    return next(even, least)
