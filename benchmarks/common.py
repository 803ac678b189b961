"""What every benchmark shares: where it ran, fair timing, and its result file."""

import datetime
import json
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

RESULTS = pathlib.Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    """Returns device, versions and date."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "machine": f"{platform.machine()}, {platform.python_implementation()} "
        f"{platform.python_version()}",
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
    }


def interleaved(
    functions: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
    """Returns each function's seconds over rounds that go through all of them.

    On a machine whose speed drifts, only figures of the same round compare.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - started)
    return times


def median_ratio(upper: list[float], lower: list[float]) -> float:
    """Returns the median over rounds of upper / lower."""
    return statistics.median(u / v for u, v in zip(upper, lower, strict=True))


def save(name: str, result: dict[str, Any]) -> None:
    """Prints the result and writes it to `results/NAME-DEVICE.json`."""
    text = json.dumps(environment() | result, indent=1)
    device = jax.devices()[0].device_kind.replace(" ", "-")
    path = RESULTS / f"{name}-{device}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n")
    print(f"{text}\nwritten to {path}")
