"""Ids of texts that come in pieces: those of the whole text, in bounded memory.

No text is held as a whole: long ones are encoded a stretch at a time. Where a tokenizer
may be cut depends on its normalizer, its word pattern and its model, so every cut is
checked with the tokenizer itself. A stretch is encoded after the end of the one before,
its context, whose ids are then dropped. The cut is right if those ids are

- what the context alone has: no token reaches over the cut, and what follows the cut
  changes nothing before it;
- what the stretch before ended with: both encodings see the same tokens up to the cut.

So a tokenizer that begins every text with a space begins no stretch with one. Where a
check fails the two stretches are encoded as one.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from kdjax.text.coverage import Lost
from kdjax.text.encoding import SpecialTokens
from kdjax.text.text_tokenizer import TextTokenizer

STRETCH = 1 << 16  # characters encoded at once
_CONTEXT = 256  # characters before a cut that are encoded again
_BATCH = 1 << 20  # bytes, about, handed to the library's threads at once
_TEXTS = 256  # the same, in texts
_NONE = np.empty(0, np.int32)
_TRIES = 4  # cuts of each kind that are tried

Encode = Callable[[list[str]], list[np.ndarray]]


@runtime_checkable
class Piece(Protocol):
    """A part of a text, or all of it; a text's pieces follow each other.

    Attributes:
        text: The characters.
        begins: Whether they begin a text, else they continue the piece before.
        ends: Whether the text ends with them. A text that is followed by the beginning
            of another without an end was cut off.
    """

    @property
    def text(self) -> str: ...  # noqa: D102

    @property
    def begins(self) -> bool: ...  # noqa: D102

    @property
    def ends(self) -> bool: ...  # noqa: D102


class Ids(NamedTuple):
    """The ids of a part of a text.

    Attributes:
        ids: [N], with the end-of-text token if the text ends here.
        begins: Whether a text begins here.
    """

    ids: np.ndarray
    begins: bool = True


class _Stretch(NamedTuple):
    context: str
    text: str
    begins: bool
    ends: bool


class _Encoded(NamedTuple):
    stretch: _Stretch
    context: np.ndarray  # the ids of the context alone
    ids: np.ndarray  # of the context and the text


def encode_stream(
    tokenizer: TextTokenizer,
    pieces: Iterable[Piece],
    special_tokens: SpecialTokens = "text",
    lost: Lost | None = None,
) -> Iterator[Ids]:
    """Yields the ids of texts in pieces; they are those of encoding each text whole.

    Args:
        tokenizer: The tokenizer; its `prefix` is left out, as in its `encode`.
        pieces: The texts, one after the other.
        special_tokens: Whether control tokens in them are text or are parsed.
        lost: Counts what the tokenizer has no ids for.

    Raises:
        UsageError: `lost` counts too much.
    """
    encoder = tokenizer.encoder
    encode = partial(encoder.texts, special_tokens=special_tokens)
    joiner = _Stretches(encode, tokenizer.end_of_text)

    def encoded(batch: list[_Stretch]) -> list[_Encoded]:
        if lost is not None:
            encoder.count_lost([stretch.text for stretch in batch], lost)
        return _encoded(encode, batch)

    for batch in _ahead(encoded, _batches(_stretches(encode, pieces))):
        yield from joiner.join(batch)
    yield from joiner.close()


def _batches(stretches: Iterable[_Stretch]) -> Iterator[list[_Stretch]]:
    batch: list[_Stretch] = []
    weight = 0
    for stretch in stretches:
        size = _weight(stretch.text)
        if batch and (weight + size > _BATCH or len(batch) == _TEXTS):
            yield batch
            batch, weight = [], 0
        batch.append(stretch)
        weight += size
    yield batch


def _ahead(
    encoded: Callable[[list[_Stretch]], "list[_Encoded]"],
    batches: Iterable[list[_Stretch]],
) -> "Iterator[list[_Encoded]]":
    """Encodes batches one ahead, in a thread: the library lets Python run meanwhile."""
    with ThreadPoolExecutor(1, "encode") as pool:
        pending = None
        for batch in batches:
            following = pool.submit(encoded, batch)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()


def _encoded(encode: Encode, batch: list[_Stretch]) -> "list[_Encoded]":
    """Returns stretches with their ids."""
    contexts = [stretch.context for stretch in batch if stretch.context]
    texts = [stretch.context + stretch.text for stretch in batch]
    found = iter(encode([*contexts, *texts]))
    before = [next(found) if stretch.context else _NONE for stretch in batch]
    return list(map(_Encoded, batch, before, found))


class _Stretches:
    """Joins the stretches between which a check fails."""

    def __init__(self, encode: Encode, end_of_text: int) -> None:
        self._encode, self._end_of_text = encode, end_of_text
        self._last: _Stretch | None = None  # held back until the next cut is checked
        self._ids = _NONE  # of its context and its text
        self._skip = 0  # ids of its context
        self._known = 0  # characters of its text that `_ids` covers

    def join(self, batch: list[_Encoded]) -> Iterator[Ids]:
        for stretch, context, ids in batch:
            if stretch.begins:
                yield from self.close()
            elif not self._follows(context, ids):
                self._join(stretch)
                continue
            else:
                yield from self._flush(ends=False)
            self._last, self._ids, self._skip = stretch, ids, len(context)
            self._known = len(stretch.text)

    def close(self) -> Iterator[Ids]:
        if self._last is not None:
            yield from self._flush(self._last.ends)

    def _follows(self, context: np.ndarray, ids: np.ndarray) -> bool:
        """Returns whether the cut after the last stretch is right."""
        assert self._last is not None
        length = len(self._last.text)
        # Encoding what was joined only each time it has doubled keeps the sum linear.
        if self._known < length < 2 * self._known:
            return False
        self._encode_joined()
        return _agree(self._ids, context, ids)

    def _join(self, stretch: _Stretch) -> None:
        assert self._last is not None
        text = self._last.text + stretch.text
        self._last = self._last._replace(text=text, ends=stretch.ends)

    def _encode_joined(self) -> None:
        assert self._last is not None
        if self._known < len(self._last.text):
            joined = self._last.context + self._last.text
            (self._ids,) = self._encode([joined])
            self._known = len(self._last.text)

    def _flush(self, ends: bool) -> Iterator[Ids]:
        assert self._last is not None
        self._encode_joined()
        ids, begins = self._ids[self._skip :], self._last.begins
        if ends:
            ids = np.append(ids, np.int32(self._end_of_text))
        self._last = None
        if len(ids) or begins:
            yield Ids(ids, begins)


def _agree(before: np.ndarray, context: np.ndarray, after: np.ndarray) -> bool:
    """Returns whether a cut is right, as the module's docstring says.

    The first half of the context's ids need not agree with those before: a context may
    begin within a token.
    """
    known = max(1, (len(context) + 1) // 2)
    return (
        len(context) > 0
        and np.array_equal(after[: len(context)], context)
        and np.array_equal(before[-known:], context[-known:])
    )


def _stretches(encode: Encode, pieces: Iterable[Piece]) -> Iterator[_Stretch]:
    """Cuts texts into stretches, short texts into one."""
    text, context, begins, ends, size = "", "", True, True, STRETCH
    for piece in pieces:
        if piece.begins:
            if not begins or text:  # the text before was cut off
                yield _Stretch(context, text, begins, False)
            text, context, begins, size = "", "", True, STRETCH
        ends, at = piece.ends, 0
        text += piece.text
        while len(text) - at >= 2 * size:
            cut = _cut(encode, text, at, at + size)
            if cut is None:  # as with a word of many thousands of characters
                size *= 2
                continue
            yield _Stretch(context, text[at:cut], begins, False)
            context, begins, size = text[max(at, cut - _CONTEXT) : cut], False, STRETCH
            at = cut
        text = text[at:]
        if ends:
            yield _Stretch(context, text, begins, True)
            text, context, begins = "", "", True
    if not begins or text:
        yield _Stretch(context, text, begins, False)


def _cut(encode: Encode, text: str, start: int, end: int) -> int | None:
    """Returns the last good place in the second half of a range, or None."""
    places = itertools.chain(
        itertools.islice(_line_ends(text, (start + end) // 2, end), _TRIES),
        itertools.islice(_word_ends(text, (start + end) // 2, end), _TRIES),
        range(end, end - 4 * _TRIES, -1),
    )
    return next((p for p in places if _is_good(encode, text, start, p)), None)


def _line_ends(text: str, low: int, high: int) -> Iterator[int]:
    """Yields, from the last, the places after a line between two without a space."""
    while (found := text.rfind("\n", low, high)) > low:
        if not text[found - 1].isspace() and not text[found + 1].isspace():
            yield found + 1
        high = found


def _word_ends(text: str, low: int, high: int) -> Iterator[int]:
    """Yields, from the last, the places before a single space."""
    while (found := text.rfind(" ", low, high)) > low:
        if not text[found - 1].isspace() and not text[found + 1].isspace():
            yield found
        high = found


def _is_good(encode: Encode, text: str, start: int, place: int) -> bool:
    """Returns whether a cut is right as far as its surroundings tell."""
    context = text[max(start, place - _CONTEXT) : place]
    before = text[max(start, place - 4 * _CONTEXT) : place]
    after = text[place : place + _CONTEXT]
    # What strips spaces, as some special tokens do, may reach over any number of them.
    if context.isspace() or after.isspace():
        return False
    return _agree(*encode([before, context, context + after]))


def _weight(text: str) -> int:
    """Returns about how many bytes a text has."""
    return len(text) if text.isascii() else 3 * len(text)
