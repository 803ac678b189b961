"""A GPU's measured matmul rate, the baseline for the loss on that GPU."""

import jax
import jax.numpy as jnp

from benchmarks import common


def matmul_rate(size: int = 8192, rounds: int = 10) -> float:
    """Returns the FLOP/s of a large bfloat16 product, measured on this machine."""
    left, right = (
        jax.random.normal(key, (size, size), jnp.bfloat16)
        for key in jax.random.split(jax.random.key(0))
    )
    multiply = jax.jit(jnp.matmul)
    seconds = common.interleaved({"matmul": lambda: multiply(left, right)}, rounds)
    return 2.0 * size**3 / min(seconds["matmul"])
