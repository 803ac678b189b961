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
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from kdjax.text.coverage import Lost
from kdjax.text.encoding import SpecialTokens
from kdjax.text.text_tokenizer import TextTokenizer

STRETCH = 1 << 14  # characters encoded at once
_CONTEXT = 256  # characters before a cut that are encoded again
_BATCH = 1 << 18  # bytes, about, handed to the library's threads at once
_TEXTS = 256  # the same, in texts
_TRIES = 4  # cuts of each kind that are tried

Encode = Callable[[list[str]], list[list[int]]]


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
    encode = partial(tokenizer.encoder.texts, special_tokens=special_tokens)
    encoder = _Stretches(encode, tokenizer.end_of_text)
    batch: list[_Stretch] = []
    weight = 0
    for stretch in _stretches(encode, pieces):
        if lost is not None:
            tokenizer.encoder.count_lost(stretch.text, lost)
        size = _weight(stretch.text)
        if batch and (weight + size > _BATCH or len(batch) == _TEXTS):
            yield from encoder.encode(batch)
            batch, weight = [], 0
        batch.append(stretch)
        weight += size
    yield from encoder.encode(batch)
    yield from encoder.close()


class _Stretches:
    """Encodes stretches in batches and joins those between which a check fails."""

    def __init__(self, encode: Encode, end_of_text: int) -> None:
        self._encode, self._end_of_text = encode, end_of_text
        self._last: _Stretch | None = None  # held back until the next cut is checked
        self._ids = np.empty(0, np.int32)  # of its context and its text
        self._skip = 0  # ids of its context
        self._known = 0  # characters of its text that `_ids` covers

    def encode(self, batch: list[_Stretch]) -> Iterator[Ids]:
        found = _ids(self._encode, (s.context + s.text for s in batch))
        contexts = _ids(self._encode, (s.context for s in batch if s.context))
        for stretch, ids in zip(batch, found, strict=True):
            context = next(contexts) if stretch.context else ids[:0]
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
            (self._ids,) = _ids(self._encode, (joined,))
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


def _ids(encode: Encode, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yields the ids of each text without the end of text."""
    return (np.array(ids, np.int32) for ids in encode(list(texts)))


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
    return _agree(*_ids(encode, (before, context, context + after)))


def _weight(text: str) -> int:
    """Returns about how many bytes a text has."""
    return len(text) if text.isascii() else 3 * len(text)
