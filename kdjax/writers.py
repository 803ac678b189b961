"""What a run tells the world: metric files, and one progress line."""

import json
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import tensorboardX
import tqdm
from etils import epath

from kdjax.workdir import write_bytes

_LINE_EVERY = 15.0  # seconds between progress lines in a log


class MetricWriter:
    """Writes scalars to `metrics.jsonl` and to TensorBoard."""

    def __init__(self, directory: epath.Path, *, start: int, enabled: bool) -> None:
        """Opens the files; records beyond step `start` are dropped.

        Args:
            directory: The run's directory.
            start: The step the run goes on from: a killed run may have written beyond
                its last checkpoint.
            enabled: False on all processes but the first.
        """
        self._path = directory / "metrics.jsonl" if enabled else None
        self._board = None
        if self._path is not None:
            directory.mkdir(parents=True, exist_ok=True)
            kept = [r for r in read_metrics(directory) if r["step"] <= start]
            text = "".join(json.dumps(record) + "\n" for record in kept)
            write_bytes(self._path, text.encode())
            self._board = tensorboardX.SummaryWriter(
                str(directory / "tensorboard"), purge_step=start + 1
            )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one record."""
        if self._path is None or self._board is None:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes what TensorBoard still holds."""
        if self._board is not None:
            self._board.close()


def read_metrics(directory: epath.Path) -> list[dict[str, Any]]:
    """Returns the records of a run; a last line cut short by a kill is left out."""
    path = directory / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


class Progress:
    """A progress bar on a terminal, a plain line now and then in a log."""

    def __init__(
        self, name: str, total: int, *, start: int = 0, unit: str, enabled: bool = True
    ) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._first = self._done = start
        self._started = self._printed = time.monotonic()
        self._enabled = enabled
        self._bar = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                desc=name, total=total, initial=start, unit=unit, unit_scale=True
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def update(self, amount: int, note: str = "") -> None:
        """Advances by `amount` and shows `note` beside the position."""
        self._done += amount
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
            return
        now = time.monotonic()
        is_last = self._done >= self._total
        if self._enabled and (is_last or now - self._printed >= _LINE_EVERY):
            self._printed = now
            say(f"{self._name}: {self._position(now)}{note and ', ' + note}")

    def _position(self, now: float) -> str:
        done = max(1, self._done - self._first)
        left = (now - self._started) / done * max(0, self._total - self._done)
        return f"{self._unit} {self._done:,}/{self._total:,}, {left:.0f} s left"


def say(message: str) -> None:
    """Prints a line of the run's story to stderr, above any progress bar."""
    tqdm.tqdm.write(message, file=sys.stderr)
