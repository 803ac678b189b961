"""What a run tells the user: lines of its story, and one that shows its progress."""

import sys
import time
from types import TracebackType

import tqdm

from kdjax.core.mirrors import spoken

_LINE_EVERY = 15.0  # seconds between progress lines in a log
_is_muted = False


def mute() -> None:
    """Silences `say` and `Progress`, in a process that is not the first of its run."""
    global _is_muted
    _is_muted = True


class Progress:
    """A progress bar on a terminal, an occasional plain line in a log.

    The time left is estimated from all updates but the first, which waits for what
    happens once: a program's first call, workers that start.
    """

    def __init__(
        self, name: str, total: int, *, start: int = 0, unit: str, enabled: bool = True
    ) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._done = start
        self._first: int | None = None  # the position after the first update
        self._began = self._printed = time.monotonic()
        self._enabled = enabled and not _is_muted
        self._bar = None
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                desc=name,
                total=total,
                initial=start,
                unit=unit,
                unit_scale=True,
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}",
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

    def leave_out(self, seconds: float) -> None:
        """Leaves out time spent since the last update on something else."""
        self._began += seconds

    def update(self, amount: int, note: str = "", *, besides: float = 0.0) -> None:
        """Advances the position.

        Args:
            amount: By how much.
            note: Shown beside the position.
            besides: Seconds that will be needed for something else.
        """
        now = time.monotonic()
        self._done += amount
        is_last = self._done >= self._total
        left = "" if is_last else f"{self._left(now, besides):.0f} s left"
        if self._first is None:
            self._first, self._began, left = self._done, now, ""
        text = ", ".join(filter(None, (left, note)))
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(amount)
            return
        if self._enabled and (is_last or now - self._printed >= _LINE_EVERY):
            self._printed = now
            position = f"{self._unit} {self._done:,}/{self._total:,}"
            say(f"{self._name}: " + ", ".join(filter(None, (position, text))))

    def _left(self, now: float, besides: float) -> float:
        """Returns how many seconds are left, by the pace since the first update."""
        pace = (now - self._began) / max(1, self._done - (self._first or 0))
        return pace * max(0, self._total - self._done) + besides


def size_of(count: int) -> str:
    """Returns a number of bytes in the unit that suits it.

    Example:
        >>> size_of(999), size_of(4_321), size_of(11_500_000)
        ('999 bytes', '4.3 kB', '11.5 MB')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def say(message: str) -> None:
    """Prints a message to stderr, above any progress bar, unless `mute` was called."""
    if _is_muted:
        return
    tqdm.tqdm.write(spoken(message), file=sys.stderr)
