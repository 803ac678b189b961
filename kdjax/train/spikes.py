"""Rewinds a run whose loss jumps, and leaves out the batches where it did."""

import statistics
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

from kdjax.config.schema import SpikeGuardConfig
from kdjax.parallel.sharding import Batch
from kdjax.train.sources import Source

_NORMAL = 1.4826  # median absolute deviations that are a standard deviation, if normal


class SpikeGuard:
    """A run's source of batches, which watches its losses and leaves batches out.

    The run goes back to a checkpoint from before the jump, as if it had been killed,
    and takes other batches from there. All that decides is in the position, and only
    checkpoints that every run has are gone back to: a run that is stopped and resumed
    does the same as one that is not.

    Attributes:
        jump: The step whose loss jumped; None: none since the last `rewind`.
        times: How often the run has been rewound.
    """

    def __init__(
        self, source: Source, config: SpikeGuardConfig, every: int, extends: int = 0
    ) -> None:
        """Guards nothing if `config.deviations` is 0.

        Args:
            source: Where the batches come from.
            config: What counts as a jump, and what is done.
            every: The number of steps between planned checkpoints.
            extends: The steps of the shorter run that this one continues.
        """
        self._source, self._config = source, config
        self._every, self._extends = every, extends
        self._start = source.position()
        self._losses: deque[float] = deque(maxlen=config.window)
        self._left_out: dict[int, int] = {}  # batches that are, after which steps
        self.jump: int | None = None
        self.times = 0

    def see(self, step: int, loss: float) -> None:
        """Takes the loss of a step, and notes whether it jumped."""
        if not self._config.deviations or self.jump is not None:
            return
        if len(self._losses) == self._config.window:
            usual = statistics.median(self._losses)
            spread = statistics.median(abs(x - usual) for x in self._losses)
            if loss > usual + self._config.deviations * _NORMAL * spread:
                self.jump = step
        self._losses.append(loss)

    def allows(self, step: int) -> bool:
        """Returns whether the run may resume at the checkpoint of a step."""
        if self.jump is None:
            return True
        latest = max(self.jump - self._config.rewind, self._extends)
        return self._is_planned(step) and step <= latest

    def needs(self, steps: Sequence[int]) -> Collection[int]:
        """Returns which checkpoints a jump may go back to, now or later.

        Args:
            steps: Those that there are, in order.
        """
        planned = [step for step in steps if self._is_planned(step)]
        if not self._config.deviations or not planned:
            return ()
        latest = max(steps[-1] - self._config.rewind, self._extends)
        first = max((step for step in planned if step <= latest), default=0)
        return [step for step in planned if step >= first]

    def rewind(self, step: int) -> None:
        """Goes back from a jump to the checkpoint of a step; `restore` may follow.

        Raises:
            FloatingPointError: The run has been rewound often enough.
        """
        assert self.jump is not None
        if self.times == self._config.times:
            raise FloatingPointError(
                f"the loss jumped at step {self.jump:,}, after it was rewound "
                f"{self.times} times; try a lower learning rate"
            )
        since = [count for begun, count in self._left_out.items() if begun >= step]
        more = max(self._config.skip, self.jump - step)
        self._left_out = {k: n for k, n in self._left_out.items() if k < step}
        self._left_out[step] = sum(since) + more
        self.times += 1
        self.jump = None
        self._losses.clear()
        self._source.restore(self._start)

    def leave_out(self, step: int, state: Any) -> list[int]:
        """Passes over the batches that are left out after a step; returns their rows.

        Args:
            step: Where the run resumes.
            state: As for `next`.
        """
        count = self._left_out.get(step, 0)
        before = self._offset(step)
        numbers = range(before + 1, before + count + 1)
        for number in numbers:
            self._source.next(number, state)
        return [row for number in numbers for row in self._source.describe(number)]

    def next(self, step: int, state: Any) -> Batch:
        """Returns the next batch that is not left out."""
        return self._source.next(self._offset(step), state)

    def describe(self, step: int) -> list[int]:
        """Returns which rows the batch of a step has, for messages."""
        return self._source.describe(self._offset(step))

    def position(self) -> dict[str, Any]:
        """Returns that of the source and, if there is a guard, what it knows."""
        position = self._source.position()
        if not self._config.deviations:
            return position
        return {
            "source": position,
            "losses": [*self._losses],
            "left_out": [*self._left_out.items()],
            "times": self.times,
        }

    def restore(self, position: dict[str, Any]) -> None:
        """Continues from a position; what was rewound since is not forgotten."""
        if not self._config.deviations:
            self._source.restore(position)
            return
        self._source.restore(position["source"])
        self._losses.extend(position["losses"])
        if position["times"] > self.times:  # in an earlier start of the run
            self.times = position["times"]
            self._left_out = {step: count for step, count in position["left_out"]}

    def close(self) -> None:
        """Closes the source."""
        self._source.close()

    def _is_planned(self, step: int) -> bool:
        return not step % self._every or step == self._extends

    def _offset(self, step: int) -> int:
        """Returns the number of a step's batch; of batches left out, those before."""
        return step + sum(n for begun, n in self._left_out.items() if begun < step)
