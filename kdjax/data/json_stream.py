"""JSON that is too long to be parsed as a whole: one string in it, in pieces."""

import io
import json
import re
from collections.abc import Callable, Iterator

from kdjax.data.reading import Unreadable

HALF = "has half of a surrogate pair, which is no character"

# Whole characters of a string. Possessive: a string of many megabytes must not be
# remembered for backtracking.
_RUN = re.compile(r'(?:[^"\\\x00-\x1f]|\\(?:u[0-9a-fA-F]{4}|["\\/bfnrt]))*+')
_LONGEST_ESCAPE = 6
_HIGH_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")
_SPACE = re.compile(r"[ \t\n\r]*")
_SCALAR = re.compile(r"[^ \t\n\r,\]}]*")


def stream_text(chunks: Iterator[str], field: str) -> Iterator[str]:
    """Yields the pieces of the string that an object holds in a field.

    Args:
        chunks: The object's JSON, cut anywhere.
        field: The field's name, or the names that lead to it with dots between.

    Raises:
        Unreadable: It is not a JSON object with one string in that field.
    """
    source = Source(chunks)
    if source.peek() != "{":
        raise Unreadable("is not an object")
    found = 0
    for piece in _search(source, field):
        found += piece is None
        if piece is not None:
            yield piece
    if source.more():
        raise Unreadable("is not JSON (there is more after the object)")
    if found != 1:
        raise Unreadable(
            f"has {'two fields' if found else 'no field'} {field!r}; set "
            "config.data.text_field"
        )


def _search(source: "Source", field: str) -> Iterator[str | None]:
    """Reads an object; yields None where the field begins, then its pieces."""
    for _ in source.items("{", "}"):
        key = "".join(source.string())
        source.expect(":")
        kind = source.peek()
        if key == field:
            if kind != '"':
                raise Unreadable(f"holds something else than text in {field!r}")
            yield None
            yield from source.string()
        elif kind == "{" and field.startswith(key + "."):
            yield from _search(source, field.removeprefix(key + "."))
        else:
            source.skip()


class Source:
    """JSON in chunks, read from the front."""

    def __init__(self, chunks: Iterator[str]) -> None:
        self._chunks = chunks
        self.text, self.at = "", 0
        self._copy: io.TextIOWrapper | None = None

    def fill(self) -> bool:
        """Drops what has been read and appends a chunk; returns whether there was one.

        What has not been read doubles at least each time, so that looking at it again
        after each call remains linear.
        """
        if self._copy is not None:
            self._copy.write(self.text[: self.at])
        self.text, self.at = self.text[self.at :], 0
        before = len(self.text)
        parts = [self.text]
        for chunk in self._chunks:
            parts.append(chunk)
            if sum(map(len, parts)) >= 2 * before:
                break
        self.text = "".join(parts)
        return len(self.text) > before

    def more(self) -> bool:
        """Returns whether anything but space is left, and passes over the space."""
        while True:
            match = _SPACE.match(self.text, self.at)
            assert match is not None
            self.at = match.end()
            if self.at < len(self.text):
                return True
            if not self.fill():
                return False

    def peek(self) -> str:
        """Returns the next character that is no space."""
        if not self.more():
            raise Unreadable("is cut off")
        return self.text[self.at]

    def expect(self, wanted: str) -> None:
        """Reads one character."""
        found = self.peek()
        if found != wanted:
            raise Unreadable(f"is not JSON ({wanted!r} expected, {found!r} found)")
        self.at += 1

    def items(self, opening: str, closing: str) -> Iterator[None]:
        """Yields wherever an item of a list or an object is to be read."""
        self.expect(opening)
        if self.peek() == closing:
            self.at += 1
            return
        yield
        while self.peek() != closing:
            self.expect(",")
            yield
        self.at += 1

    def string(self) -> Iterator[str]:
        """Reads a string and yields it in pieces."""
        self.expect('"')
        while True:
            match = _RUN.match(self.text, self.at)
            assert match is not None
            end = match.end()
            is_last = self.text.startswith('"', end)
            left = len(self.text) - end
            is_escape = self.text.startswith("\\", end) and left < _LONGEST_ESCAPE
            if not is_last and left and not is_escape:
                raise Unreadable("is not JSON (a wrong character in a string)")
            if not is_last:
                end = _before_half(self.text, self.at, end)
            piece = json.loads(f'"{self.text[self.at : end]}"')
            if piece:
                yield _checked(piece)
            self.at = end + is_last
            if is_last:
                return
            if not self.fill():
                raise Unreadable("is cut off")

    def skip(self) -> None:
        """Reads any value."""
        kind = self.peek()
        try:
            if kind == '"':
                for _ in self.string():
                    pass
            elif kind == "[":
                for _ in self.items("[", "]"):
                    self.skip()
            elif kind == "{":
                for _ in self.items("{", "}"):
                    for _ in self.string():
                        pass
                    self.expect(":")
                    self.skip()
            else:
                self._skip_scalar()
        except RecursionError:
            raise Unreadable("is nested too deeply") from None

    def _skip_scalar(self) -> None:
        while True:
            match = _SCALAR.match(self.text, self.at)
            assert match is not None
            if match.end() < len(self.text) or not self.fill():
                break
        try:
            json.loads(match.group(), parse_int=float)
        except ValueError:
            raise Unreadable(f"is not JSON ({match.group()[:20]!r})") from None
        self.at = match.end()

    def copy(self, file: io.TextIOWrapper, read: Callable[[], None]) -> None:
        """Writes to a file what a function reads."""
        self.text, self.at = self.text[self.at :], 0
        self._copy = file
        try:
            read()
            file.write(self.text[: self.at])
        finally:
            self._copy = None
        self.text, self.at = self.text[self.at :], 0


def _before_half(text: str, start: int, end: int) -> int:
    """Returns `end`, or where the first half of a surrogate pair begins before it."""
    match = _HIGH_SURROGATE.search(text, max(start, end - _LONGEST_ESCAPE), end)
    if match is None:
        return end
    before = text[start : match.start()]
    escaped = (len(before) - len(before.rstrip("\\"))) % 2
    return end if escaped else match.start()


def _checked(piece: str) -> str:
    try:
        piece.encode()
    except UnicodeEncodeError:
        raise Unreadable(HALF) from None
    return piece
