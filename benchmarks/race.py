"""Time and memory of the loss beside the naive path and peers, on this machine.

Each implementation runs in its own process (`benchmarks.contenders`), so that peak
resident memory is measured separately. On a CPU they take turns, round by round: on a
machine whose speed drifts, only figures of the same round are comparable. On a GPU,
whose memory they could not share, they run one after another.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import common
from benchmarks.contenders import OURS, Request

TIME_OF_NAIVE, TIME_OF_PEERS, MEMORY_OF_NAIVE = 0.75, 0.4, 0.3
PACKAGES = ("torch", "trl", "liger-kernel")
PEERS = ("TRL", "Liger", "Liger compiled", "torch.compile")


class Contender:
    """A running process with one implementation; each call runs a step."""

    def __init__(self, request: Request, **environment: str) -> None:
        """Starts it and waits for its first step, which compiles."""
        self.name = request.name
        self.steps: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.contenders",
                json.dumps(request._asdict()),
            ],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        first = self._answer()
        self.error: str | None = first.get("error")
        self.loss: float | None = first.get("loss")

    def step(self) -> None:
        """Runs a step and records its figures."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.error = self.error or answer.get("error")
        if self.error is None:
            self.steps.append(answer)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def median(self, field: str) -> float | None:
        """Returns the median of a figure over the steps, None where there is none."""
        values = [step[field] for step in self.steps if step[field] is not None]
        return statistics.median(values) if values else None

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        words = self._process.communicate()[1].strip().splitlines() or ["it ended"]
        return {"error": words[-1][:160]}


def run(requests: Sequence[Request], rounds: int, turns: bool) -> list[dict[str, Any]]:
    """Returns the figures of every implementation; absent peers are reported as such.

    Args:
        requests: What to run.
        rounds: Timed steps of each.
        turns: Whether they take turns on the CPU, or run one after another on the
            available device.
    """
    if turns:
        alone = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        contenders = [Contender(request, **alone) for request in requests]
        for _ in range(rounds):
            for contender in contenders:
                if contender.error is None:
                    contender.step()
        for contender in contenders:
            contender.close()
    else:
        contenders = []
        for request in requests:
            contender = Contender(request, XLA_PYTHON_CLIENT_PREALLOCATE="false")
            for _ in range(rounds if contender.error is None else 0):
                contender.step()
            contender.close()
            contenders.append(contender)
    return [_figures(contender) for contender in contenders]


def _figures(contender: Contender) -> dict[str, Any]:
    if contender.error is not None:
        return {"name": contender.name, "error": contender.error}
    fields = ("wall_s", "cpu_s", "peak_bytes", "accelerator_peak_bytes")
    figures: dict[str, Any] = {"name": contender.name, "loss": contender.loss}
    figures |= {field: contender.median(field) for field in fields}
    return figures | {"rounds_cpu_s": [step["cpu_s"] for step in contender.steps]}


def requests(kind: str, peers: Sequence[str] = PEERS, **shape: Any) -> list[Request]:
    """Returns the requests of our implementations and the peers for a kind."""
    return [Request(name, kind, **shape) for name in (*OURS, *peers)]


def compare(rows: list[dict[str, Any]], time: str, memory: str) -> dict[str, Any]:
    """Returns the fused path's ratios to the others, with their goals.

    Where they took turns, time ratios are medians over rounds.
    """
    good = {row["name"]: row for row in rows if "error" not in row}
    if "kdjax fused" not in good:
        return {}
    fused = good.pop("kdjax fused")
    floor = good.pop("products alone", None)
    ratios = {}
    for name, row in good.items():
        goal = TIME_OF_NAIVE if name == "kdjax naive" else TIME_OF_PEERS
        ratio = fused[time] / row[time]
        if time == "cpu_s":
            ratio = common.median_ratio(fused["rounds_cpu_s"], row["rounds_cpu_s"])
        found = {"time": round(ratio, 3), "time goal": common.verdict(ratio, goal)}
        if fused[memory] and row[memory]:
            ratio = fused[memory] / row[memory]
            found |= {"memory": round(ratio, 3)}
            if name == "kdjax naive":
                found |= {"memory goal": common.verdict(ratio, MEMORY_OF_NAIVE)}
        found["loss differs by"] = abs(fused["loss"] / row["loss"] - 1)
        ratios[name] = found
    if floor is not None:
        ratio = common.median_ratio(fused["rounds_cpu_s"], floor["rounds_cpu_s"])
        ratios["products alone"] = {"time": round(ratio, 3)}
    return ratios


def show(title: str, rows: list[dict[str, Any]], ratios: dict[str, Any]) -> None:
    """Prints times, memory, the fused path's ratios to each row, and the goals."""

    def number(value: float | None, unit: float, digits: int) -> str | None:
        return None if value is None else f"{value / unit:.{digits}f}"

    lines = []
    for row in rows:
        if "error" in row:
            lines.append([row["name"], row["error"], *[None] * 7])
            continue
        found = ratios.get(row["name"], {})
        goals = [found[key] for key in ("time goal", "memory goal") if key in found]
        lines.append(
            [
                row["name"],
                number(row["wall_s"], 1e-3, 1),
                number(row["cpu_s"], 1e-3, 1),
                number(row["peak_bytes"], 2.0**20, 0),
                number(row["accelerator_peak_bytes"], 2.0**20, 0),
                f"{row['loss']:.6f}",
                found.get("time"),
                found.get("memory"),
                "; ".join(goals),
            ]
        )
    columns = "name, wall ms, CPU ms, peak MiB, device MiB, loss, fused / it, memory"
    common.table(title, [*columns.split(", "), "goals: time; memory"], lines)
