"""Held-out evaluation: metrics of one model on one split, and forward speed."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from kdjax.held_out import EvalStep
from kdjax.metrics import Mean
from kdjax.results import CalibrationBin
from kdjax.task import Batch


def evaluate(
    eval_step: EvalStep, params: Any, teacher_params: Any, batches: Iterable[Batch]
) -> dict[str, Any]:
    """Returns every metric over all batches, as plain numbers.

    The bins of confidence become the expected calibration error and, for the plot,
    "calibration", a tuple of `CalibrationBin`.
    """
    totals: dict[str, Mean] = {}
    for batch in batches:
        metrics = eval_step(params, teacher_params, batch)
        totals = {k: totals[k] + m if totals else m for k, m in metrics.items()}
    host = jax.device_get(totals)
    bins = host.pop("bin_confidence"), host.pop("bin_accuracy")
    return {name: mean.compute() for name, mean in host.items()} | _calibration_error(
        *bins
    )


def _calibration_error(confidence: Mean, accuracy: Mean) -> dict[str, Any]:
    """Returns ECE = sum over bins of (share of tokens) * |accuracy - confidence|."""
    count = np.asarray(confidence.count)
    used = count > 0
    mean_confidence = np.asarray(confidence.total)[used] / count[used]
    mean_accuracy = np.asarray(accuracy.total)[used] / count[used]
    share = count[used] / count.sum()
    return {
        "calibration_error": float(share @ np.abs(mean_accuracy - mean_confidence)),
        "calibration": tuple(
            CalibrationBin(float(c), float(a), int(n))
            for c, a, n in zip(mean_confidence, mean_accuracy, count[used], strict=True)
        ),
    }


def forward_speed(
    forwards: Mapping[str, Callable[[Batch], jax.Array]], batch: Batch, rounds: int = 7
) -> dict[str, float]:
    """Returns tokens/s of each function: medians of interleaved runs after a warm-up.

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
