"""Measures the speed of forward passes."""

import statistics
import time
from collections.abc import Callable, Mapping

import jax

from kdjax.parallel.sharding import Batch


def forward_speed(
    forwards: Mapping[str, Callable[[Batch], jax.Array]], batch: Batch, rounds: int = 7
) -> dict[str, float]:
    """Returns each function's tokens/s: the median of interleaved runs after warm-up.

    Interleaving keeps the ratio fair on a machine whose speed drifts.
    """
    times: dict[str, list[float]] = {name: [] for name in forwards}
    for round_ in range(rounds + 1):
        for name, forward in forwards.items():
            started = time.perf_counter()
            jax.block_until_ready(forward(batch))
            if round_:
                times[name].append(time.perf_counter() - started)
    tokens = batch["tokens"].size
    return {name: tokens / statistics.median(spent) for name, spent in times.items()}
