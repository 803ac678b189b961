"""Reads and records a run's metrics while the device works on the next step."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath

from kdjax.core.logging import Progress, say
from kdjax.core.metrics import Mean
from kdjax.models.flops import peak_flops
from kdjax.results.measured import CurvePoint, Training
from kdjax.train.appending import Beginning
from kdjax.train.position import START, Position
from kdjax.train.records import MetricWriter

_MAX_SKIPPED = 10  # non-finite steps in a row
_ROWS_SAID = 8  # how many rows of a skipped step are named in its message
_RECENT = 20  # steps whose median time gives the speed shown; pauses for the estimate


class Meter:
    """Reads the metrics of step n - 1 while the device works on step n.

    Attributes:
        skipped: Steps skipped since the last record.
        skipped_in_a_row: Steps skipped since the last one that was taken.
    """

    def __init__(
        self,
        name: str,
        directory: epath.Path,
        *,
        start: int,
        steps: int,
        tokens: int,
        flops: float,
        every: tuple[int, ...],
        pauses: tuple[int, ...] = (),
        wandb: str = "",
        begun: Position = START,
        rows: Callable[[int], Sequence[int]] = lambda step: (),
        watch: Callable[[int, float], None] = lambda step, loss: None,
    ) -> None:
        """Opens the files and the progress line.

        Args:
            name: The run's name.
            directory: Where the metrics go.
            start: The step that the run resumes at.
            steps: The number of steps in the run.
            tokens: Tokens per step.
            flops: FLOPs per step.
            every: Steps divisible by one of these are recorded, and the last one.
            pauses: Training pauses after steps divisible by one of these, and after
                the last one, for the time between `catch_up` and `resume`.
            wandb: As for `MetricWriter`.
            begun: Where the run resumes.
            rows: From a step to the rows of its batch.
            watch: Gets each step that was taken, and its loss.
        """
        is_first = jax.process_index() == 0
        self._name, self._rows, self._watch = name, rows, watch
        self._record_every, self._last = every, steps
        self._tokens, self._flops, self._peak = tokens, flops, peak_flops()
        self._writer = MetricWriter(
            directory,
            start=start,
            enabled=is_first,
            wandb=wandb,
            is_evaluated=begun.is_evaluated,
        )
        self._progress = Progress(
            name, steps, start=start, unit="step", enabled=is_first
        )
        self._pending: tuple[int, dict[str, Mean]] | None = None
        self._durations: deque[float] = deque(maxlen=_RECENT)
        self._pauses: deque[float] = deque(maxlen=_RECENT)
        self._pauses_left = sum(
            step == steps or not all(step % n for n in pauses)
            for step in range(start + 1, steps + 1)
        )
        self.skipped, self.skipped_in_a_row = begun.skipped, begun.skipped_in_a_row
        # Host time says something of the training only where the host is the device.
        is_host = jax.default_backend() == "cpu" and jax.process_count() == 1
        self._cpu: float | None = 0.0 if is_host else None  # since the last record
        self._read = time.perf_counter()
        self._cpu_read = time.process_time()

    def record(self, step: int, metrics: dict[str, Mean]) -> None:
        """Takes the metrics of a step just dispatched; reads the previous step's."""
        self.catch_up()
        self._pending = step, metrics

    def held_out(self, step: int, loss: dict[str, float]) -> None:
        """Writes a held-out evaluation."""
        self._writer.write(step, {f"eval/{name}": v for name, v in loss.items()})

    def rewound(self, start: int, rows: Sequence[int]) -> None:
        """Writes which rows are left out after the step at which a run resumes."""
        self._writer.note(start + 1, {"left_out_rows": [*rows]})

    def settle(self) -> Beginning | None:
        """Returns what `MetricWriter.settle` does."""
        return self._writer.settle()

    def resume(self, *, is_planned: bool = True) -> None:
        """Restarts the clock after a pause, which does not count as training time.

        Args:
            is_planned: Whether the pause was among those that `pauses` tells.
        """
        now = time.perf_counter()
        if is_planned:
            self._pauses.append(now - self._read)
            self._pauses_left -= 1
        self._progress.leave_out(now - self._read)
        self._read, self._cpu_read = now, time.process_time()

    def close(self) -> None:
        """Reads the last step's metrics and closes the files."""
        self.catch_up()
        self._writer.close()
        self._progress.close()

    def catch_up(self) -> None:
        """Reads the pending metrics, waiting for their step."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {k: mean.compute() for k, mean in jax.device_get(metrics).items()}
        now = time.perf_counter()
        self._durations.append(now - self._read)
        self._read = now
        cpu = time.process_time()
        if self._cpu is not None:
            self._cpu += cpu - self._cpu_read
        self._cpu_read = cpu
        self._count_skipped(step, int(values["skipped"]))
        if not values["skipped"]:
            self._watch(step, float(values["loss"]))
        usual = statistics.median(self._durations)
        perf = {"perf/tokens_per_second": self._tokens / usual}
        note = f"loss {values['loss']:.3f}, {self._tokens / usual:,.0f} tokens/s"
        if self._peak is not None:
            perf["perf/mfu"] = self._flops / usual / self._peak
            note += f", MFU {perf['perf/mfu']:.0%}"
        # The median, because the first pause compiles what evaluates.
        pause = statistics.median(self._pauses) if self._pauses else 0.0
        self._progress.update(1, note, besides=self._pauses_left * pause)
        if step == self._last or not all(step % n for n in self._record_every):
            scalars = {f"train/{name}": value for name, value in values.items()}
            scalars["train/skipped"] = self.skipped
            self.skipped = 0
            if self._cpu is not None:
                perf["perf/cpu_seconds"] = self._cpu  # since the last record
                self._cpu = 0.0
            self._writer.write(step, {**scalars, **perf})

    def _count_skipped(self, step: int, skipped: int) -> None:
        self.skipped += skipped
        self.skipped_in_a_row = (self.skipped_in_a_row + 1) * skipped
        if not skipped:
            return
        rows = list(self._rows(step))
        self._writer.note(step, {"skipped_rows": rows})
        said = ", ".join(map(str, rows[:_ROWS_SAID]))
        more = f" and {len(rows) - _ROWS_SAID} more" if len(rows) > _ROWS_SAID else ""
        say(
            f"note: {self._name}: step {step:,} is skipped: loss, gradients or update "
            f"were not finite; its rows of the training split: {said}{more}"
        )
        if self.skipped_in_a_row >= _MAX_SKIPPED:
            raise FloatingPointError(
                f"{self._name}: loss or gradients were not finite for {_MAX_SKIPPED} "
                f"steps up to step {step}, and nothing was saved since the first of "
                "them; try a lower learning rate"
            )


def summary(records: list[dict[str, Any]]) -> Training:
    """Returns speed and skipped steps of the whole run, including before resuming."""

    def usual(name: str) -> float | None:
        values = [r[name] for r in records if r.get(name) is not None]
        return statistics.median(values) if values else None

    return Training(
        tokens_per_second=usual("perf/tokens_per_second"),
        mfu=usual("perf/mfu"),
        skipped_steps=sum(int(r.get("train/skipped", 0)) for r in records),
        rows_left_out=sum(len(r.get("left_out_rows", ())) for r in records),
        cpu_seconds=_cpu_seconds([r for r in records if "train/loss" in r]),
    )


def _cpu_seconds(records: list[dict[str, Any]]) -> float | None:
    """Returns the CPU seconds of all steps, from those that are known of."""
    steps = [record["step"] for record in records]
    known = [
        (step - before, record["perf/cpu_seconds"])
        for before, step, record in zip([0, *steps], steps, records, strict=False)
        if "perf/cpu_seconds" in record
    ]
    if not known:
        return None
    covered, spent = map(sum, zip(*known, strict=True))
    return float(spent / covered * steps[-1])


def curve(records: list[dict[str, Any]]) -> tuple[CurvePoint, ...]:
    """Returns the held-out points of the whole run, including before resuming."""
    points = []
    for record in records:
        evaluated = {k[5:]: v for k, v in record.items() if k.startswith("eval/")}
        found = {k: v for k, v in evaluated.items() if v is not None}
        if not {"cross_entropy", "bits_per_byte"} <= found.keys():
            continue  # or not finite
        loss, bits = found.pop("cross_entropy"), found.pop("bits_per_byte")
        points.append(CurvePoint(record["step"], loss, bits, found))
    return tuple(points)
