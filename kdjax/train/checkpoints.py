"""Checkpoints of a run in progress: its state, and the position of its data.

A checkpoint and its manifest become visible at once, under the name of its step. A kill
therefore leaves either a checkpoint that can be verified or none at all; one without a
manifest is of an early version.
"""

import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from kdjax.config.schema import CheckpointConfig
from kdjax.core.errors import UsageError, why
from kdjax.core.logging import say
from kdjax.core.mirrors import drop, pull, push, put_as
from kdjax.train import manifests
from kdjax.train.appending import Beginning
from kdjax.train.position import Position
from kdjax.train.records import METRICS
from kdjax.train.state import TrainState

DIRECTORY = "checkpoints"  # of a run
_NONE_IS_GOOD = -1


class _Writing(NamedTuple):
    """What is being written, besides state and position."""

    step: int
    loss: float | None
    metrics: Beginning | None


def latest_step(run: epath.Path) -> int:
    """Returns the step that a run will resume at; 0: it has no checkpoint.

    Checkpoints are read and verified, by the first process, for all.

    Raises:
        UsageError: All are damaged.
    """
    pull(run / DIRECTORY)
    step, _ = _survey(run / DIRECTORY)
    return step


class Checkpoints:
    """The checkpoints of one run: {state, position}, written asynchronously.

    The latest `keep` stay, and besides them the best by held-out loss. The teacher is
    never inside.

    What cannot be written, as where the disk is full, is said at once; earlier
    checkpoints stay, and the next save is another attempt. `close` raises where the
    last attempt has failed.
    """

    def __init__(self, run: epath.Path, config: CheckpointConfig) -> None:
        """Opens those of the run with this directory."""
        self._directory, self._keep = (run / DIRECTORY).absolute(), config.keep
        self._writing: _Writing | None = None
        self._failure: OSError | None = None
        # Orbax logs tracebacks of what is raised as well, and told in a line here.
        for logger in ("absl", "asyncio"):
            logging.getLogger(logger).addFilter(_is_not_orbax)
        options = ocp.options.AsyncOptions(post_finalization_callback=self._seal)
        handler = ocp.CompositeCheckpointHandler()
        self._checkpointer = ocp.AsyncCheckpointer(handler, async_options=options)
        if _is_first():
            self._directory.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
        pull(self._directory)

    def latest(self) -> int | None:
        """Returns the newest step whose checkpoint is as it was written.

        Those that are damaged are named.

        Raises:
            UsageError: All are damaged.
        """
        step, said = _survey(self._directory)
        for line in said:
            say(f"note: {line}")
        return step or None

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Position]:
        """Returns state and position, and removes later checkpoints.

        Args:
            step: What `latest` returned.
            like: The state's shapes, dtypes and shardings.

        Raises:
            UsageError: It holds something else.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()
        )
        path = self._directory / str(step)
        try:
            found = self._checkpointer.restore(path, args=items)
            state, data = found["state"], dict(found["data"])
            # An early version kept the position of the data alone.
            position = Position(**data) if "source" in data else Position(data)
        except Exception as error:
            raise UsageError(
                f"the checkpoint {path} cannot be restored ({why(error)[1]}); "
                "delete it to resume at an earlier one, or choose another --workdir"
            ) from None
        if _is_first():
            for later in _steps(self._directory):
                if later > step:
                    _remove(self._directory / str(later))
        return state, position

    def save(
        self,
        step: int,
        state: TrainState,
        position: Position,
        loss: float | None,
        settle: Callable[[], Beginning | None],
    ) -> None:
        """Starts writing, after what is being written; says what could not be.

        Args:
            step: The steps taken.
            state: The state after them.
            position: That of the data and the metrics after them.
            loss: The held-out loss; None: it was not measured.
            settle: As for `MetricWriter`; it is called first.
        """
        self._wait()
        self._remove_old()
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave(position._asdict()),
        )
        if loss is not None and not math.isfinite(loss):
            loss = None
        try:
            self._writing = _Writing(step, loss, settle())
            # Orbax copies to the host in ways that a guarded loop takes for accidental.
            with jax.transfer_guard("allow"):
                self._checkpointer.save(self._directory / str(step), args=items)
        except Exception as error:
            self._fail(step, error)

    def check(self) -> None:
        """Says so if what was being written has failed since."""
        if self._writing is not None:
            try:
                self._checkpointer.check_for_errors()
            except Exception as error:
                self._fail(self._writing.step, error)

    def close(self) -> None:
        """Waits for what is being written.

        Raises:
            OSError: The last attempt to save has failed.
        """
        self._wait()
        self._remove_old()
        self._checkpointer.close()
        if self._failure is not None:
            raise self._failure

    def _wait(self) -> None:
        if self._writing is None:
            return
        step = self._writing.step
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:
            self._fail(step, error)
        else:
            self._writing = self._failure = None

    def _fail(self, step: int, error: Exception) -> None:
        """Says that the checkpoint of a step could not be written, and why."""
        number, reason = why(error)
        self._writing = None
        what = "the last checkpoint could not be written"
        self._failure = OSError(number, f"{what} ({reason})", str(self._directory))
        if _is_first():
            self._remove_unfinished()  # it takes room
        say(
            f"note: the checkpoint of step {step:,} could not be written to "
            f"{self._directory} ({reason}); earlier ones are kept, and the next save "
            "tries again"
        )

    def _seal(self) -> None:
        """Writes the manifest; called before a checkpoint gets its final name."""
        assert self._writing is not None
        step, loss, metrics = self._writing
        (path,) = self._directory.glob(f"{step}.*tmp*")
        manifests.seal(path, loss, metrics)
        push(self._directory.parent, lambda name: DIRECTORY not in name.split("/"))
        put_as(path, self._directory / str(step))

    def _remove_old(self) -> None:
        """Removes all but the latest and the best."""
        if not _is_first():
            return
        earlier = _steps(self._directory)[: -self._keep]
        losses = {
            step: loss
            for step in _steps(self._directory)
            if (loss := manifests.loss_of(self._directory / str(step))) is not None
        }
        best = min(losses, key=lambda step: (losses[step], -step), default=None)
        for step in earlier:
            if step != best:
                _remove(self._directory / str(step))

    def _remove_unfinished(self) -> None:
        """Removes what a kill or a failure has left half written or half deleted."""
        for path in self._directory.glob("*tmp*"):
            path.rmtree(missing_ok=True)


def _survey(directory: epath.Path) -> tuple[int, list[str]]:
    """Returns the step of the checkpoint to resume at, and what to say of others.

    The newest that its manifest confirms; where none has a manifest, the newest.
    """
    step, said = _newest_good(directory) if _is_first() else (0, [])
    if jax.process_count() > 1:
        step = int(multihost_utils.broadcast_one_to_all(step))
    if step == _NONE_IS_GOOD:
        raise UsageError(
            f"{'; '.join(said) or 'no checkpoint is good'}; restore one, or delete "
            f"{directory.parent} to train this run again"
        )
    return step, said


def _newest_good(directory: epath.Path) -> tuple[int, list[str]]:
    said: list[str] = []
    never_sealed: list[int] = []
    steps = _steps(directory)[::-1]
    for step in steps:
        path = directory / str(step)
        if not manifests.is_sealed(path):
            never_sealed.append(step)
            continue
        damage = manifests.damage(path, directory.parent / METRICS)
        if damage is None:
            passed = (directory / str(later) for later in never_sealed)
            said += [f"{path} has no manifest, so it is not used" for path in passed]
            return step, said
        said.append(f"the checkpoint {path} cannot be used: {damage}")
    if never_sealed:
        path = directory / str(never_sealed[0])
        said.append(f"{path} is of an early version and cannot be verified")
        return never_sealed[0], said
    return (_NONE_IS_GOOD if steps else 0), said


def _steps(directory: epath.Path) -> list[int]:
    """Returns the steps of all checkpoints that were written to their end."""
    if not directory.exists():
        return []
    return sorted(
        int(path.name)
        for path in directory.iterdir()
        if path.name.isdigit()
        and path.is_dir()
        and ocp.utils.is_checkpoint_finalized(path)
    )


def _remove(path: epath.Path) -> None:
    """Removes a checkpoint; a kill leaves it whole, or unfinished by its name."""
    drop(path)
    temporary = path.with_name(f"{path.name}.removed-tmp")
    path.rename(temporary)
    temporary.rmtree()


def _is_first() -> bool:
    return jax.process_index() == 0


def _is_not_orbax(record: logging.LogRecord) -> bool:
    # What fails beside the first failure of a save is logged by asyncio.
    is_left = record.getMessage().startswith("Future exception was never retrieved")
    return "orbax" not in record.pathname and not is_left
