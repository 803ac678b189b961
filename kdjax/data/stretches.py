"""Which parts of a long text are held out, where files are too few to choose among.

A text is divided into equal parts, of each of which the end is held out, `fraction` of
it. There are as many parts as have 65,536 held-out characters each, but at least one
and at most 16. A border lies after the next blank line, else the next line, else the
next space, within 4,096 characters or a quarter of what is held out in a part.
"""

from collections.abc import Iterator
from typing import NamedTuple

from kdjax.data.reading import Unreadable

_LEAST = 1 << 16  # characters of a stretch that is held out, if there are several
_MOST = 16  # stretches that are held out
_FARTHEST = 1 << 12  # characters by which a border moves


class Stretch(NamedTuple):
    """A piece of a text.

    Attributes:
        start: Where its stretch starts in the text.
        text: The characters.
        held_out: Whether the stretch is held out.
        begins: Whether the stretch begins with this piece.
        ends: Whether the text ends with this piece.
    """

    start: int
    text: str
    held_out: bool
    begins: bool
    ends: bool


def stretches(chunks: Iterator[str], length: int, fraction: float) -> Iterator[Stretch]:
    """Yields a text in pieces, each in one stretch.

    Args:
        chunks: The text.
        length: Its number of characters.
        fraction: What share of it is held out.

    Raises:
        Unreadable: The text is not as long.
    """
    rest, at = "", 0  # `rest` is what follows character `at`
    start, held_out = 0, False
    for target, farthest in [*_targets(length, fraction), (length, 0)]:
        while at + len(rest) < min(target + farthest, length):
            if at + len(rest) <= target:
                if rest:
                    yield Stretch(start, rest, held_out, at == start, False)
                at, rest = at + len(rest), ""
            chunk = next(chunks, "")
            if not chunk:
                raise Unreadable("became shorter while it was read")
            rest += chunk
        cut = _border(rest, target - at, farthest) if target > at else 0
        cut = min(cut, length - at)
        if cut:
            ends = at + cut == length
            yield Stretch(start, rest[:cut], held_out, at == start, ends)
        at, rest = at + cut, rest[cut:]
        start, held_out = at, not held_out


def _targets(length: int, fraction: float) -> Iterator[tuple[int, int]]:
    """Yields where stretches but the last should end, and how much later they may."""
    parts = min(max(int(length * fraction) // _LEAST, 1), _MOST)
    size = int(length * fraction / parts)
    if not size:
        return
    farthest = min(size // 4, _FARTHEST)
    for part in range(1, parts + 1):
        end = length * part // parts
        yield end - size, farthest
        if part < parts:
            yield end, farthest


def _border(text: str, target: int, farthest: int) -> int:
    """Returns the best place for a border at a target or a little after it."""
    for mark in ("\n\n", "\n", " "):
        # A mark that ends at the target is the best.
        found = text.find(mark, max(0, target - len(mark)), target + farthest)
        if found >= 0:
            return found + len(mark)
    return target
