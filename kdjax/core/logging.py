"""What a run tells the user: lines of its story, and one that shows its progress."""

import sys
import time
from types import TracebackType

import tqdm

_LINE_EVERY = 15.0  # seconds between progress lines in a log


class Progress:
    """A progress bar on a terminal, an occasional plain line in a log."""

    def __init__(
        self, name: str, total: int, *, start: int = 0, unit: str, enabled: bool = True
    ) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._first = self._done = start
        self._started = self._printed = time.monotonic()
        self._enabled = enabled
        self._bar = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                desc=name, total=total, initial=start, unit=unit, unit_scale=True
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the bar, leaving it on the screen as it is."""
        if self._bar is not None:
            self._bar.close()

    def update(self, amount: int, note: str = "") -> None:
        """Advances by `amount` and shows `note` beside the position."""
        self._done += amount
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
            return
        now = time.monotonic()
        is_last = self._done >= self._total
        if self._enabled and (is_last or now - self._printed >= _LINE_EVERY):
            self._printed = now
            say(f"{self._name}: {self._position(now)}{note and ', ' + note}")

    def _position(self, now: float) -> str:
        done = max(1, self._done - self._first)
        left = (now - self._started) / done * max(0, self._total - self._done)
        return f"{self._unit} {self._done:,}/{self._total:,}, {left:.0f} s left"


def say(message: str) -> None:
    """Prints a message to stderr, above any progress bar."""
    tqdm.tqdm.write(message, file=sys.stderr)
