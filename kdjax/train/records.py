"""A run's metrics on disk, one JSON object a line, and the same on boards."""

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from etils import epath

from kdjax.core.errors import UsageError, why
from kdjax.core.files import write_bytes
from kdjax.core.logging import say
from kdjax.train.appending import AppendedFile, Beginning
from kdjax.train.boards import Board, TensorBoard, WeightsAndBiases

METRICS = "metrics.jsonl"


class MetricWriter:
    """Writes scalars to `metrics.jsonl`, to TensorBoard and, if asked, to W&B.

    What cannot be written, as where the disk is full, waits for the next record.
    """

    def __init__(
        self,
        directory: epath.Path,
        *,
        start: int,
        enabled: bool,
        wandb: str = "",
        is_evaluated: bool = True,
    ) -> None:
        """Opens the files; records beyond step `start` are dropped.

        Args:
            directory: The run's directory.
            start: The step that the run resumes at; a killed one may have written
                beyond its last checkpoint.
            enabled: False on all processes but the first.
            wandb: A Weights & Biases project that gets the scalars too; "": none.
            is_evaluated: False: an evaluation of step `start` is dropped as well.
        """
        self._path = directory / METRICS if enabled else None
        self._boards: list[Board] = []
        self._is_failing = False
        if self._path is not None:
            directory.mkdir(parents=True, exist_ok=True)
            content = b"".join(
                _line(record)
                for record in read_metrics(directory)
                if record["step"] < start + (is_evaluated or not _is_evaluation(record))
            )
            write_bytes(self._path, content)
            self._file = AppendedFile(self._path, content)
            self._boards.append(TensorBoard(directory, start))
            if wandb:
                self._boards.append(WeightsAndBiases(directory, wandb))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one record; what is not finite is null in `metrics.jsonl`."""
        if self._path is None:
            return
        self._file.add(_line({"step": step, **scalars}))
        boards = (partial(board.write, step, scalars) for board in self._boards)
        writes: list[Callable[[], object]] = [self._file.write, *boards]
        failures = [*filter(None, map(_failure, writes))]
        if failures and not self._is_failing:
            say(
                f"note: metrics cannot be written to {self._path.parent} "
                f"({failures[0]}); they are kept until they can be"
            )
        self._is_failing = bool(failures)

    def note(self, step: int, facts: Mapping[str, Any]) -> None:
        """Appends a record of what is no scalar, and is not shown on boards."""
        if self._path is not None:
            self._file.add(_line({"step": step, **facts}))

    def settle(self) -> Beginning | None:
        """Returns what `metrics.jsonl` is, once all records are on disk.

        Raises:
            OSError: They cannot be written.
        """
        return None if self._path is None else self._file.write(is_durable=True)

    def close(self) -> None:
        """Closes the boards.

        Raises:
            OSError: Not all records could be written.
        """
        try:
            self.settle()
        finally:
            for board in self._boards:
                board.close()


def read_metrics(directory: epath.Path) -> list[dict[str, Any]]:
    """Returns the records of a run; a last line truncated by a kill is left out.

    Raises:
        UsageError: The file is damaged.
    """
    path = directory / METRICS
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [_record(line, f"{path}, line {n}") for n, line in enumerate(lines[:-1], 1)]


def _failure(write: Callable[[], object]) -> str | None:
    """Returns why something cannot be written, or None once it is."""
    try:
        write()
    except OSError as error:
        return why(error)[1]
    return None


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        # Early versions wrote NaN, which is no JSON.
        record = json.loads(line, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        directory = where.rpartition("/")[0]
        raise UsageError(
            f"{where}, is damaged; delete {directory} to train this run again"
        )
    return record


def _is_evaluation(record: Mapping[str, Any]) -> bool:
    return any(name.startswith("eval/") for name in record)


def _line(record: Mapping[str, Any]) -> bytes:
    def is_json(value: Any) -> bool:
        return not isinstance(value, float) or math.isfinite(value)

    plain = {name: value if is_json(value) else None for name, value in record.items()}
    return (json.dumps(plain, allow_nan=False) + "\n").encode()
