"""A run's metrics on disk, one JSON object a line, and the same on boards."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from kdjax.core.errors import UsageError
from kdjax.core.files import write_bytes
from kdjax.train.boards import Board, TensorBoard, WeightsAndBiases


class MetricWriter:
    """Writes scalars to `metrics.jsonl`, to TensorBoard and, if asked, to W&B."""

    def __init__(
        self, directory: epath.Path, *, start: int, enabled: bool, wandb: str = ""
    ) -> None:
        """Opens the files; records beyond step `start` are dropped.

        Args:
            directory: The run's directory.
            start: The step that the run resumes at; a killed one may have written
                beyond its last checkpoint.
            enabled: False on all processes but the first.
            wandb: A Weights & Biases project that gets the scalars too; "": none.
        """
        self._path = directory / "metrics.jsonl" if enabled else None
        self._boards: list[Board] = []
        if self._path is not None:
            directory.mkdir(parents=True, exist_ok=True)
            kept = [r for r in read_metrics(directory) if r["step"] <= start]
            text = "".join(json.dumps(record) + "\n" for record in kept)
            write_bytes(self._path, text.encode())
            self._boards.append(TensorBoard(directory, start))
            if wandb:
                self._boards.append(WeightsAndBiases(directory, wandb))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one record."""
        if self._path is None:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        for board in self._boards:
            board.write(step, scalars)

    def close(self) -> None:
        """Closes the boards."""
        for board in self._boards:
            board.close()


def read_metrics(directory: epath.Path) -> list[dict[str, Any]]:
    """Returns the records of a run; a last line truncated by a kill is left out.

    Raises:
        UsageError: The file is damaged.
    """
    path = directory / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [_record(line, f"{path}, line {n}") for n, line in enumerate(lines[:-1], 1)]


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        directory = where.rpartition("/")[0]
        raise UsageError(
            f"{where}, is damaged; delete {directory} to train this run again"
        )
    return record
