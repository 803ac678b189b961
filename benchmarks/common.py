"""Shared by all benchmarks: the environment, fair timing, and result files."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kdjax.parallel.sharding import Batch

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
    """Returns each function's seconds over rounds that run all of them in turn.

    On a machine whose speed drifts, only times of the same round are comparable.
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


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the packages' versions; "absent" where one is not installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def make_batch(rows: int, length: int, vocab: int) -> Batch:
    """Returns random tokens, each row one text."""
    tokens = np.random.default_rng(0).integers(0, vocab, (rows, length), np.int32)
    return {
        "tokens": jax.numpy.asarray(tokens),
        "segments": jax.numpy.ones_like(tokens),
    }


def in_fresh_process(
    module: str, request: Mapping[str, Any], **environment: str
) -> dict[str, Any]:
    """Returns the last line that `python -m MODULE REQUEST` prints; both are JSON.

    Returns {"error": its last error line} if it fails.
    """
    run = subprocess.run(
        [sys.executable, "-m", module, json.dumps(request)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        words = run.stderr.strip().splitlines() or [""]
        return {"error": f"exit {run.returncode}: {words[-1][:160]}"}
    answer: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return answer


def verdict(value: float | None, goal: float) -> str:
    """Says whether a figure is at most its goal, for the table."""
    if value is None:
        return f"no figure (<= {goal:g})"
    return f"{'met' if value <= goal else 'MISSED'} (<= {goal:g})"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints the rows under their columns; None is shown as a dash."""
    cells = [list(columns)] + [
        ["-" if cell is None else str(cell) for cell in row] for row in rows
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    print(f"\n{title}")
    for line in cells:
        pairs = zip(line, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in pairs).rstrip())
    sys.stdout.flush()


def save(name: str, result: dict[str, Any], *, show: bool = True) -> None:
    """Writes the result to `results/NAME-DEVICE.json`; with `show`, prints it too."""
    text = json.dumps(environment() | result, indent=1)
    device = jax.devices()[0].device_kind.replace(" ", "-")
    path = RESULTS / f"{name}-{device}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n")
    print(f"{text}\nwritten to {path}" if show else f"written to {path}")
