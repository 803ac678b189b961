"""Where metrics are shown beside `metrics.jsonl`: TensorBoard, Weights & Biases."""

import hashlib
import importlib
import platform
import struct
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from etils import epath
from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import masked_crc32c

from kdjax.core.errors import UsageError
from kdjax.core.mirrors import address
from kdjax.train.appending import AppendedFile


class Board(Protocol):
    """Shows a run's scalars."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows the scalars of a step."""

    def close(self) -> None:
        """Shows what is held back still."""


class TensorBoard:
    """The scalars as a file of TensorBoard's events.

    tensorboardX's own writer has a thread, and blocks for ever once that has died of a
    full disk; this one has none.
    """

    def __init__(self, directory: epath.Path, start: int) -> None:
        """Writes below a run's directory; what is beyond step `start` is dropped."""
        directory = directory / "tensorboard"
        directory.mkdir(parents=True, exist_ok=True)
        unique = f"{time.time():.0f}.{platform.node()}.{uuid.uuid4().hex[:8]}"
        self._file = AppendedFile(directory / f"events.out.tfevents.{unique}")
        self._add(0, file_version="brain.Event:2")
        log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(start + 1, session_log=log)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step.

        Raises:
            OSError: They wait, because nothing can be written.
        """
        for name, value in scalars.items():
            scalar = summary_pb2.Summary.Value(tag=name, simple_value=value)
            self._add(step, summary=summary_pb2.Summary(value=[scalar]))
        self._file.write()

    def close(self) -> None:
        """Does nothing: all is written."""

    def _add(self, step: int, **content: Any) -> None:
        """Adds an event, in TFRecord's frame of lengths and checksums."""
        event = event_pb2.Event(step=step, wall_time=time.time(), **content)
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        for part in (length, data):
            self._file.add(part + struct.pack("<I", masked_crc32c(part)))


class WeightsAndBiases:
    """The scalars as a run of a Weights & Biases project, such as "ORG/PROJECT".

    A resumed run goes on in the same one, told by its directory. Steps that it has
    already, beyond the last checkpoint, are not replaced; they are the same.
    """

    def __init__(self, directory: epath.Path, project: str) -> None:
        """Begins or resumes the run.

        Raises:
            UsageError: It cannot be begun, as where nobody is logged in.
        """
        entity, _, name = project.rpartition("/")
        path = str(directory.resolve())
        wandb: Any = importlib.import_module("wandb")
        try:
            self._run = wandb.init(
                project=name,
                entity=entity or None,
                id=hashlib.sha256(address(directory.resolve()).encode()).hexdigest()[
                    :16
                ],
                name=f"{directory.parent.name}/{directory.name}",
                dir=path,
                resume="allow",
                reinit="create_new",
            )
        except Exception as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise UsageError(
                f"config.wandb = {project!r}: {reason}; log in with `wandb login`, set "
                "WANDB_MODE=offline, or leave config.wandb empty"
            ) from None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Sends the scalars of a step."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Ends the run, after sending what is held back still."""
        self._run.finish()
