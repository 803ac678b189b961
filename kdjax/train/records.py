"""A run's metrics on disk: one JSON object a line, and the same for TensorBoard."""

import json
from collections.abc import Mapping
from typing import Any

import tensorboardX
from etils import epath

from kdjax.core.errors import UsageError
from kdjax.core.files import write_bytes


class MetricWriter:
    """Writes scalars to `metrics.jsonl` and to TensorBoard."""

    def __init__(self, directory: epath.Path, *, start: int, enabled: bool) -> None:
        """Opens the files; records beyond step `start` are dropped.

        Args:
            directory: The run's directory.
            start: The step that the run resumes at; a killed one may have written
                beyond its last checkpoint.
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
