"""Sampling the next token from logits: greedy, or by temperature, top-k and top-p."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from kdjax.core.errors import UsageError


class Sampling(NamedTuple):
    """How the next token is sampled.

    Attributes:
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Only the k likeliest tokens can be sampled; 0: all.
        top_p: Only the likeliest tokens that together reach this probability can be
            sampled, after the temperature and among the top k; 1: all.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def check(self) -> None:
        """Raises if a value is invalid or would have no effect.

        Raises:
            UsageError: The message names the flag.
        """
        if not 0 <= self.temperature < math.inf:  # nan fails both comparisons
            raise UsageError(f"--temperature must be at least 0; it is {self[0]}")
        if self.top_k < 0:
            raise UsageError(f"--top_k must be at least 0; it is {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top_p must be in (0, 1]; it is {self.top_p}")
        if not self.temperature and (self.top_k or self.top_p < 1):
            raise UsageError(
                "--top_k and --top_p restrict sampling, and --temperature=0 does not "
                "sample; set --temperature above 0"
            )


def sample(
    logits: Float[Array, "B V"], keys: Key[Array, "B"], sampling: Sampling
) -> Int[Array, "B"]:
    """Returns one token per row.

    Args:
        logits: In float32; -inf is never sampled.
        keys: One per row, so that rows are independent of each other.
        sampling: How tokens are sampled.
    """
    if not sampling.temperature:
        return jnp.argmax(logits, axis=-1)
    logits = restrict(logits, sampling)
    return jax.vmap(jax.random.categorical)(keys, logits)


def restrict(
    logits: Float[Array, "*batch V"], sampling: Sampling
) -> Float[Array, "*batch V"]:
    """Returns the logits to sample from, tempered; excluded tokens are -inf.

    Tokens that tie with the last one kept are kept as well.

    Example:
        >>> logits = jnp.log(jnp.array([0.5, 0.3, 0.2]))
        >>> jnp.isfinite(restrict(logits, Sampling(1.0, top_p=0.6))).tolist()
        [True, True, False]
    """
    logits = logits / sampling.temperature
    if sampling.top_k:
        kept, _ = jax.lax.top_k(logits, min(sampling.top_k, logits.shape[-1]))
        logits = jnp.where(logits >= kept[..., -1:], logits, -jnp.inf)
    if sampling.top_p < 1:
        falling = -jnp.sort(-logits, axis=-1)
        probs = jax.nn.softmax(falling)
        # A token is needed if those before it do not reach top_p; the first always is.
        is_needed = jnp.cumsum(probs, axis=-1) - probs < sampling.top_p
        last = jnp.min(jnp.where(is_needed, falling, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= last, logits, -jnp.inf)
    return logits
