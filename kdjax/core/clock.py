"""What the CPU seconds of a process go into."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator


class Clock:
    """Accounts for the CPU seconds of this process, all of its threads together.

    Each second belongs to one activity, the innermost one; those outside of any, from
    the start of the process on, belong to "start-up and report".
    """

    def __init__(self) -> None:
        self._spent: dict[str, float] = defaultdict(float)
        self._current = "start-up and report"
        self._since = 0.0  # CPU time begins with the process

    @contextlib.contextmanager
    def __call__(self, activity: str) -> Iterator[None]:
        """Accounts for what happens inside as this activity."""
        outer = self._switch(activity)
        try:
            yield
        finally:
            self._switch(outer)

    def spent(self) -> dict[str, float]:
        """Returns the CPU seconds of every activity, largest first."""
        self._switch(self._current)
        return dict(sorted(self._spent.items(), key=lambda item: -item[1]))

    def _switch(self, activity: str) -> str:
        """Begins an activity and returns the one that ends."""
        now, ended = time.process_time(), self._current
        self._spent[ended] += now - self._since
        self._since, self._current = now, activity
        return ended
