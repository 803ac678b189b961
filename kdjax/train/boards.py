"""Where metrics are shown beside `metrics.jsonl`: TensorBoard, Weights & Biases."""

import hashlib
import importlib
import platform
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from etils import epath

from kdjax.core.errors import UsageError
from kdjax.core.mirrors import address
from kdjax.train import events
from kdjax.train.appending import AppendedFile


class Board(Protocol):
    """Shows a run's scalars."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows the scalars of a step."""

    def close(self) -> None:
        """Shows what is held back still."""


class TensorBoard:
    """The scalars as a file of TensorBoard's events."""

    def __init__(self, directory: epath.Path, start: int) -> None:
        """Writes below a run's directory; what is beyond step `start` is dropped."""
        directory = directory / "tensorboard"
        directory.mkdir(parents=True, exist_ok=True)
        now = time.time()
        unique = f"{now:.0f}.{platform.node()}.{uuid.uuid4().hex[:8]}"
        self._file = AppendedFile(directory / f"events.out.tfevents.{unique}")
        for event in (events.version(now), events.began(start + 1, now)):
            self._file.add(events.framed(event))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step.

        Raises:
            OSError: They wait, because nothing can be written.
        """
        for name, value in scalars.items():
            event = events.scalar(step, time.time(), name, float(value))
            self._file.add(events.framed(event))
        self._file.write()

    def close(self) -> None:
        """Does nothing: all is written."""


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
