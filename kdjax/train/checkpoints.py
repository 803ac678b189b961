"""Checkpoints of a run in progress: its state, and the position of its data.

A checkpoint and its manifest become visible at once, under the name of its step. A kill
therefore leaves either a checkpoint that can be verified or none at all; one without a
manifest is of an early version.
"""

import contextlib
import itertools
import json
import logging
import math
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from kdjax.checkpoints import parts
from kdjax.config.schema import CheckpointConfig
from kdjax.core.errors import UsageError, why
from kdjax.core.logging import say
from kdjax.core.mirrors import check, drop, pull, push, put_as
from kdjax.parallel.apart import are_apart
from kdjax.train import manifests
from kdjax.train.appending import Beginning
from kdjax.train.meeting import Meeting
from kdjax.train.newest import DIRECTORY, steps_of, survey
from kdjax.train.position import Position
from kdjax.train.state import TrainState

_saves = itertools.count()  # all processes save alike


class _Writing(NamedTuple):
    """What is being written, besides state and position."""

    step: int
    loss: float | None
    metrics: Beginning | None
    meeting: Meeting


class Checkpoints:
    """The checkpoints of one run: {state, position}, written asynchronously.

    The latest `keep` stay, and besides them the best by held-out loss. The teacher is
    never inside.

    Where processes are apart, each writes its parts to a directory of its own, copies
    them to the store and removes them here; the first one seals the whole.

    What cannot be written, as where the disk is full, is said at once; earlier
    checkpoints stay, and the next save is another attempt. `close` raises where the
    last attempt has failed.
    """

    def __init__(
        self,
        run: epath.Path,
        config: CheckpointConfig,
        needs: Callable[[Sequence[int]], Collection[int]] = lambda steps: (),
    ) -> None:
        """Opens those of a run.

        Args:
            run: The run's directory.
            config: How many are kept.
            needs: From the steps of all to those that are kept besides.
        """
        self._needs = needs
        self._directory, self._keep = (run / DIRECTORY).absolute(), config.keep
        self._writing: _Writing | None = None
        self._failure: OSError | None = None
        self._is_apart = are_apart(self._directory)
        # Orbax logs tracebacks of what is raised as well, and told in a line here.
        for logger in ("absl", "asyncio"):
            logging.getLogger(logger).addFilter(_is_not_orbax)
        options = ocp.options.AsyncOptions(
            post_finalization_callback=self._seal,
            barrier_sync_fn=self._meet,
            # Else orbax 0.12.8 makes a directory and those in it at the same time,
            # and fails where one of these comes first.
            create_directories_asynchronously=False,
        )
        self._checkpointer = _checkpointer(options, is_apart=self._is_apart)
        if self._is_apart or _is_first():
            self._directory.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
        if _is_first():
            pull(self._directory)

    def latest(self, allows: Callable[[int], bool] = lambda step: True) -> int | None:
        """Returns the newest step whose checkpoint is as it was written.

        Those that are damaged are named.

        Args:
            allows: Whether the run may resume at a step.

        Raises:
            UsageError: All are damaged.
        """
        step, said = survey(self._directory, allows)
        for line in said:
            say(f"note: {line}")
        return step or None

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Position]:
        """Returns state and position.

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
        if not _is_first():
            pull(path)
        try:
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
                found = reader.restore(path, args=items)
            state, data = found["state"], dict(found["data"])
            # An early version kept the position of the data alone.
            position = Position(**data) if "source" in data else Position(data)
        except Exception as error:
            raise UsageError(
                f"the checkpoint {path} cannot be restored ({why(error)[1]}); "
                "delete it to resume at an earlier one, or choose another --workdir"
            ) from None
        return state, position

    def remove_after(self, step: int) -> None:
        """Removes those of later steps, which will be taken again."""
        if _is_first():
            for later in steps_of(self._directory):
                if later > step:
                    _remove(self._directory / str(later))

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
        save = ocp.args.PyTreeSave if self._is_apart else ocp.args.StandardSave
        data = ocp.args.JsonSave(position._asdict())
        items = ocp.args.Composite(state=save(state), data=data)
        if loss is not None and not math.isfinite(loss):
            loss = None
        writing = self._writing = _Writing(step, loss, None, _meeting())
        try:
            self._writing = writing._replace(metrics=settle())
            if self._is_apart and _is_first():
                check(self._directory)  # for the others, who have no lease
            writing.meeting()  # or the others would write, and this one train on
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
        if self._writing is not None:
            self._writing.meeting.fail(reason)
        self._writing = None
        what = "the last checkpoint could not be written"
        self._failure = OSError(number, f"{what} ({reason})", str(self._directory))
        if self._is_apart or _is_first():
            with contextlib.suppress(OSError):  # others may still write
                self._remove_unfinished()  # it takes room
        say(
            f"note: the checkpoint of step {step:,} could not be written to "
            f"{self._directory} ({reason}); earlier ones are kept, and the next save "
            "tries again"
        )

    def _meet(self, *, key: str, timeout_ms: int) -> None:
        """Waits for the other processes, while it is written."""
        assert self._writing is not None
        self._writing.meeting(timeout_ms)

    def _seal(self) -> None:
        """Writes the manifest; called before a checkpoint gets its final name."""
        assert self._writing is not None
        step, loss, metrics, meeting = self._writing
        (path,) = self._directory.glob(f"{step}.*tmp*")
        others: dict[str, str] = {}
        if self._is_apart:
            put_as(path, self._directory / str(step), parts.is_mine)
            found = manifests.hashes(path)
            mine = {name: each for name, each in found.items() if parts.is_mine(name)}
            for told in meeting(content=json.dumps(mine)):
                others |= json.loads(told)
            if not _is_first():
                return
        manifests.seal(path, loss, metrics, others)
        push(self._directory.parent, lambda name: DIRECTORY not in name.split("/"))
        put_as(
            path,
            self._directory / str(step),
            lambda name: name == manifests.NAME or not self._is_apart,
        )

    def _remove_old(self) -> None:
        """Removes all but the latest, the best and those that are needed."""
        steps = steps_of(self._directory)
        if not _is_first():
            for step in steps if self._is_apart else ():
                (self._directory / str(step)).rmtree()
            return
        earlier = steps[: -self._keep]
        losses = {
            step: loss
            for step in steps
            if (loss := manifests.loss_of(self._directory / str(step))) is not None
        }
        best = min(losses, key=lambda step: (losses[step], -step), default=None)
        kept = {best, *self._needs(steps)}
        for step in earlier:
            if step not in kept:
                _remove(self._directory / str(step))

    def _remove_unfinished(self) -> None:
        """Removes what a kill or a failure has left half written or half deleted."""
        for path in self._directory.glob("*tmp*"):
            path.rmtree(missing_ok=True)


def _checkpointer(
    options: ocp.options.AsyncOptions, *, is_apart: bool
) -> ocp.AsyncCheckpointer:
    """Returns what writes one directory from all processes, or one from each."""
    handlers: dict[str, ocp.CheckpointHandler] = {}
    processes = ocp.options.MultiprocessingOptions()
    if is_apart:
        handlers = {"state": parts.handler(), "data": ocp.JsonCheckpointHandler()}
        processes = parts.EACH
    both = {"async_options": options, "multiprocessing_options": processes}
    composite = ocp.CompositeOptions(**both)
    handler = ocp.CompositeCheckpointHandler(composite_options=composite, **handlers)
    return ocp.AsyncCheckpointer(handler, **both)


def _remove(path: epath.Path) -> None:
    """Removes a checkpoint; a kill leaves it whole, or unfinished by its name."""
    drop(path)
    temporary = path.with_name(f"{path.name}.removed-tmp")
    path.rename(temporary)
    temporary.rmtree()


def _meeting() -> Meeting:
    """Returns where the processes meet for the next save."""
    count = jax.process_count()
    client = ocp.multihost.get_jax_distributed_client() if count > 1 else None
    return Meeting(client, jax.process_index(), count, f"save/{next(_saves)}")


def _is_first() -> bool:
    return jax.process_index() == 0


def _is_not_orbax(record: logging.LogRecord) -> bool:
    # What fails beside the first failure of a save is logged by asyncio.
    is_left = record.getMessage().startswith("Future exception was never retrieved")
    return "orbax" not in record.pathname and not is_left
