"""Texts whose documents are separated by blank lines."""

from collections.abc import Iterator

from kdjax.data.documents import Document
from kdjax.data.reading import PIECE


def paragraphs(chunks: Iterator[str], name: str) -> Iterator[tuple[int, Document]]:
    """Yields the documents of a text with the numbers of their first lines, from 1.

    A document has no newline at its end. A long one comes in pieces.

    Args:
        chunks: The text.
        name: The file's name.
    """
    parts: list[str] = []  # not yielded yet
    size, begins, first = 0, True, 0

    def take(ends: bool) -> tuple[int, Document]:
        nonlocal parts, size, begins
        text = "".join(parts)
        # Only what follows tells whether this newline is the document's last.
        held_back = text[-1:] == "\n"
        document = Document(
            f"{name}:{first}", text.removesuffix("\n"), begins=begins, ends=ends
        )
        parts, size, begins = ["\n"] if held_back and not ends else [], 0, ends
        return first, document

    number, in_line = 1, False
    for part, is_whole in _lines(chunks):
        if in_line or part.strip():
            if begins and not parts:
                first = number
            parts.append(f"{part}\n" if is_whole else part)
            size += len(part) + 1
            if size > PIECE:
                yield take(ends=False)
        elif parts or not begins:
            yield take(ends=True)
        number, in_line = number + is_whole, not is_whole
    if parts or not begins:
        yield take(ends=True)


def _lines(chunks: Iterator[str]) -> Iterator[tuple[str, bool]]:
    """Yields lines, and the parts of long ones; with each, whether it ends a line."""
    rest = ""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        yield from ((line, True) for line in lines)
        if len(rest) > PIECE and not rest.isspace():  # else it may be a blank line
            yield rest, False
            rest = ""
    yield rest, True
