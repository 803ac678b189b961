"""When the state of a run is saved: by steps, by time, and when the run is stopped."""

import time
from typing import Any

import jax
from jax.sharding import Mesh

from kdjax.config.schema import CheckpointConfig
from kdjax.core.stopping import Stop
from kdjax.train.agreement import SAVE, Agreement
from kdjax.train.checkpoints import Checkpoints
from kdjax.train.meter import Meter
from kdjax.train.position import Position
from kdjax.train.sources import Source


class Saver:
    """Saves the state of a run in time.

    After a step that was skipped nothing is saved: the save waits for one that is
    taken, so that a run that diverges is stopped with its last good checkpoint, however
    often it is started again. Only the last step has none to wait for.
    """

    def __init__(
        self,
        saved: Checkpoints,
        config: CheckpointConfig,
        steps: int,
        meter: Meter,
        source: Source,
        mesh: Mesh,
    ) -> None:
        """Saves nothing yet.

        Args:
            saved: The run's checkpoints.
            config: After how many steps and minutes there is one.
            steps: The number of steps in the run.
            meter: What records its metrics.
            source: The source of its batches.
            mesh: All devices.
        """
        self._saved, self._meter, self._source = saved, meter, source
        self._every, self._seconds, self._steps = (
            config.every,
            60 * config.minutes,
            steps,
        )
        self._agree = Agreement(mesh)
        self._is_due, self._began = False, time.monotonic()

    def is_due(self, step: int, stop: Stop) -> bool:
        """Returns whether to save after a step, on all processes alike.

        Args:
            step: The step.
            stop: Whether this process was asked to stop; afterwards, whether all stop.
        """
        self._saved.check()
        agreed = self._agree(stop.number or SAVE * self._is_time())
        stop.is_agreed = agreed > SAVE
        if stop.is_agreed:
            stop.number = agreed
        is_planned = step == self._steps or not step % self._every
        self._is_due = self._is_due or is_planned or agreed > 0
        return self._is_due

    def save(
        self, step: int, state: Any, loss: float | None, *, is_evaluated: bool
    ) -> None:
        """Saves unless the step was skipped; then it stays due.

        Args:
            step: The step.
            state: The state after it.
            loss: The held-out loss; None: it was not measured.
            is_evaluated: As for `Position`.
        """
        meter = self._meter
        if meter.skipped_in_a_row and step != self._steps:
            return
        self._is_due, self._began = False, time.monotonic()
        source = self._source.position()
        position = Position(source, meter.skipped, meter.skipped_in_a_row, is_evaluated)
        self._saved.save(step, state, position, loss, meter.settle)

    def _is_time(self) -> bool:
        """Returns whether time has come for a save; the first process's clock tells."""
        now = time.monotonic()
        is_time = 0 < self._seconds <= now - self._began and not jax.process_index()
        if is_time:
            self._began = now  # all save a step later: asking again would be a second
        return is_time
