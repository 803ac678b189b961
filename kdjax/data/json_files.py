"""Texts out of JSON: a line or an element of an array is a document."""

import codecs
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kdjax.data.json_stream import HALF, Source, stream_text
from kdjax.data.reading import PIECE, Unreadable, check_start, decoded, not_utf8

LONGEST = 1 << 23  # bytes of JSON that are parsed at once

# Numbers are not needed, and `int` refuses those of more than 4,300 digits.
_DECODER = json.JSONDecoder(parse_int=float)
_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "true or false",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


class Record(NamedTuple):
    """One JSON value of a file.

    Attributes:
        number: That of its line, or of its place in the array, from 1.
        content: A line as bytes, a file of JSON if there are more than `LONGEST` bytes
            of it, or else the value itself. The file is closed when the next record is
            read.
        is_last: Whether the file ends with this line, so that it may be cut off.
    """

    number: int
    content: Any
    is_last: bool = False

    def texts(self, field: str) -> Iterator[str]:
        """Yields the text in a field, in pieces if it is very long.

        Raises:
            Unreadable: There is none; nothing has been yielded then.
        """
        if isinstance(self.content, io.TextIOWrapper):
            # Twice, so that nothing is yielded of JSON that turns out to be wrong.
            for _ in _long_text(self.content, field):
                pass
            yield from _long_text(self.content, field)
        elif isinstance(self.content, bytes):
            yield text_in(self._parsed(self.content), field)
        else:
            yield text_in(self.content, field)

    def _parsed(self, line: bytes) -> Any:
        try:
            return parse(line)
        except Unreadable as error:
            if not self.is_last or "is not JSON" not in str(error):
                raise
            raise Unreadable(
                f"{error}; it may be cut off: the file ends there"
            ) from None


def json_lines(
    file: io.BufferedReader, wanted: Callable[[int], bool]
) -> Iterator[Record]:
    """Yields a file's lines but for empty ones.

    Args:
        file: The file, after its byte-order mark.
        wanted: Whether a line, by its number from 1, shall be read.
    """
    number = 0
    while line := file.readline(LONGEST):
        number += 1
        is_long = len(line) == LONGEST and not line.endswith(b"\n")
        if not wanted(number):
            _pass_over(file, is_long)
        elif is_long:
            with tempfile.TemporaryFile() as spool:
                spool.write(line)
                while is_long:
                    line = file.readline(LONGEST)
                    spool.write(line)
                    is_long = len(line) == LONGEST and not line.endswith(b"\n")
                yield Record(number, io.TextIOWrapper(spool, "utf-8", newline=""))
        elif line.strip():
            yield Record(number, line, not line.endswith(b"\n"))


def _pass_over(file: io.BufferedReader, is_long: bool) -> None:
    while is_long:
        line = file.readline(LONGEST)
        is_long = len(line) == LONGEST and not line.endswith(b"\n")


def json_array(
    file: io.BufferedReader, wanted: Callable[[int], bool]
) -> Iterator[Record]:
    """Yields the elements of an array.

    Args:
        file: The file, after its byte-order mark.
        wanted: Whether an element, by its number from 1, shall be read.

    Raises:
        Unreadable: It is not an array; elements before the error have been yielded.
    """
    source = Source(decoded(file))
    for number, _ in enumerate(source.items("[", "]"), start=1):
        source.peek()
        if (element := _element(source)) is not None:
            if wanted(number):
                yield Record(number, element[0])
            continue
        with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as spool:
            source.copy(spool, source.skip)
            if wanted(number):
                yield Record(number, spool)
    if source.more():
        raise Unreadable("is not JSON (there is more after the array)")


def _element(source: Source) -> tuple[Any] | None:
    """Reads an element; None, and nothing read, if there is too much of it."""
    while True:
        try:
            element, end = _DECODER.raw_decode(source.text, source.at)
        except RecursionError:
            raise Unreadable("is nested too deeply") from None
        except ValueError:
            end = len(source.text)
        # A number may go on where the text ends.
        if end < len(source.text):
            source.at = end
            return (element,)
        if len(source.text) - source.at > LONGEST:
            return None
        if not source.fill():
            parse(source.text[source.at :])
            raise Unreadable("is cut off")


def parse(content: bytes | str) -> Any:
    """Returns a JSON value; its numbers are all floats.

    Raises:
        Unreadable: It is not JSON.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        return _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise Unreadable(not_utf8(error.object[error.start], error.start)) from None
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"is not JSON ({error.msg}, column {error.pos + 1})") from None


def text_in(value: Any, field: str) -> str:
    """Returns the text in a field of an object.

    Args:
        value: What should be an object.
        field: The field's name, or the names that lead to it with dots between.

    Raises:
        Unreadable: It is no object, or has no text there.
    """
    if not isinstance(value, dict):
        raise Unreadable(f"is {kind_of(value)}, not an object with text in {field!r}")
    name, holder = field, value
    while name not in holder:
        groups = (k for k, v in holder.items() if isinstance(v, dict))
        head = next((k for k in groups if name.startswith(f"{k}.")), None)
        if head is None:
            raise Unreadable(f"has no field {field!r}{_choices(value)}")
        name, holder = name.removeprefix(f"{head}."), holder[head]
    text = holder[name]
    if not isinstance(text, str):
        choices = "" if text is None else _choices(value)
        raise Unreadable(f"has {kind_of(text)} in {field!r}, not text{choices}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unreadable(HALF) from None
    return text


def kind_of(value: Any) -> str:
    """Says what a value is."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        is_chat = value[0].keys() & {"role", "from"}
        return "a conversation" if is_chat else "a list of objects"
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def _choices(value: dict[str, Any]) -> str:
    texts = [repr(name) for name, found in value.items() if isinstance(found, str)]
    such = f", such as to {', '.join(texts[:5])}" if texts else ""
    return f"; set config.data.text_field{such}"


def _long_text(file: io.TextIOWrapper, field: str) -> Iterator[str]:
    file.seek(0)
    try:
        yield from stream_text(iter(lambda: file.read(PIECE), ""), field)
    except UnicodeDecodeError as error:
        raise Unreadable(not_utf8(error.object[error.start], error.start)) from None


def is_json_array(file: io.BufferedReader) -> bool:
    """Passes over a byte-order mark and returns whether an array follows.

    Raises:
        Unreadable: The file is packed, or UTF-16.
    """
    if file.peek(3).startswith(codecs.BOM_UTF8):
        file.read(3)
    check_start(file.peek(8))
    return file.peek(PIECE).lstrip().startswith(b"[")


def has_lines(file: io.BufferedReader) -> bool:
    """Returns whether the first line is JSON, as far as can be seen."""
    line, newline, _ = file.peek(PIECE).lstrip().partition(b"\n")
    if newline:
        try:
            parse(line)
        except Unreadable:
            return False
    return True
