"""Which parts of a long text are held out, where files are too few to choose among.

A text is divided into equal parts, of each of which the end is in the validation split
and what comes before that in the test split, if there is one. There are as many parts
as have 65,536 characters for validation each, but at least one and at most 16. A border
lies after the next blank line, else the next line, else the next space, within 4,096
characters or a quarter of the stretch that it begins.
"""

from collections.abc import Iterator
from typing import NamedTuple

from kdjax.data.reading import Unreadable

_LEAST = 1 << 16  # characters of a stretch for validation, if there are several
_MOST = 16  # stretches for validation
_FARTHEST = 1 << 12  # characters by which a border moves


class Stretch(NamedTuple):
    """A piece of a text.

    Attributes:
        start: Where its stretch starts in the text.
        text: The characters.
        split: The split that it is in.
        begins: Whether the stretch begins with this piece.
        ends: Whether the text ends with this piece.
    """

    start: int
    text: str
    split: str
    begins: bool
    ends: bool


def stretches(
    chunks: Iterator[str], length: int, validation: float, test: float = 0.0
) -> Iterator[Stretch]:
    """Yields a text in pieces, each in one stretch.

    Args:
        chunks: The text.
        length: Its number of characters.
        validation: What share of it is in the validation split.
        test: What share of it is in the test split; the other's is the same whatever
            this is.

    Raises:
        Unreadable: The text is not as long.
    """
    rest, at, start = "", 0, 0  # `rest` is what follows character `at`
    for split, target, farthest in _targets(length, validation, test):
        while at + len(rest) < min(target + farthest, length):
            if at + len(rest) <= target:
                if rest:
                    yield Stretch(start, rest, split, at == start, False)
                at, rest = at + len(rest), ""
            chunk = next(chunks, "")
            if not chunk:
                raise Unreadable("became shorter while it was read")
            rest += chunk
        cut = _border(rest, target - at, farthest) if target > at else 0
        cut = min(cut, length - at)
        if cut:
            ends = at + cut == length
            yield Stretch(start, rest[:cut], split, at == start, ends)
        at, rest = at + cut, rest[cut:]
        start = at


def _targets(
    length: int, validation: float, test: float
) -> Iterator[tuple[str, int, int]]:
    """Yields the stretches' splits, where they should end, how much later they may."""
    parts = min(max(int(length * validation) // _LEAST, 1), _MOST)
    size, tested = (int(length * share / parts) for share in (validation, test))
    if not size:
        yield "train", length, 0
        return
    farthest = min(size // 4, _FARTHEST)
    for part in range(1, parts + 1):
        end = length * part // parts
        begin = end - size
        # A test stretch of one character would hide a mark of two from the border of
        # the validation split, and so move it.
        if tested > 1:
            yield "train", begin - tested, min(tested // 4, _FARTHEST)
        yield "test" if tested > 1 else "train", begin, farthest
        yield "validation", end, farthest if part < parts else 0


def _border(text: str, target: int, farthest: int) -> int:
    """Returns the best place for a border at a target or a little after it."""
    for mark in ("\n\n", "\n", " "):
        # A mark that ends at the target is the best.
        found = text.find(mark, max(0, target - len(mark)), target + farthest)
        if found >= 0:
            return found + len(mark)
    return target
