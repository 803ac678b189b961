"""Documents, in pieces where they are long, and the corpora that they make up."""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from kdjax.config.schema import DataConfig


class Document(NamedTuple):
    """A text, or a piece of a long one; the pieces of a text follow each other.

    Attributes:
        name: The same for all pieces.
        text: The characters.
        begins: Whether they begin a text, else they continue the piece before.
        ends: Whether the text ends with them. A text whose next part is in another
            split has no end in this one.
    """

    name: str
    text: str
    begins: bool = True
    ends: bool = True


@dataclasses.dataclass
class Skipped:
    """What could not be read, filled during iteration.

    Attributes:
        files: Their names. Of a file that is damaged where its first records have been
            read already, these are used.
        records: For each split, how many lines, rows or examples.
    """

    files: set[str] = dataclasses.field(default_factory=set)
    records: dict[str, int] = dataclasses.field(default_factory=dict)


class Corpus(NamedTuple):
    """Documents in splits; "train" and "validation" always exist.

    Attributes:
        splits: For each split, a function that yields its documents.
        skipped: What could not be read.
        paths: The files that the documents are read from, if it is known that they are
            read from no others; of one in a bucket, its address and version.
    """

    splits: dict[str, Callable[[], Iterator[Document]]]
    skipped: Skipped
    paths: tuple[pathlib.Path | str, ...] = ()


def split_names(config: DataConfig) -> tuple[str, ...]:
    """Returns the splits that `split_of` tells apart."""
    return ("train", "validation", *(["test"] if config.test_fraction else []))


def split_of(name: str, config: DataConfig) -> str:
    """Returns the split that a name's hash falls in.

    It depends on the name alone, so adding files moves no others between splits, and
    a test split takes nothing from the validation split.
    """
    digest = hashlib.sha256(_bytes(name)).digest()
    place, end = int.from_bytes(digest[:8], "big"), config.validation_fraction
    if place < end * 2**64:
        return "validation"
    return "test" if place < (end + config.test_fraction) * 2**64 else "train"


class Digest:
    """Counts and hashes the documents of a split."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._documents = self._size = self._length = 0
        self._is_open = False

    def add(self, document: Document) -> None:
        """Adds a document or its next piece."""
        content = document.text.encode()
        self._size += len(content)
        self._documents += document.begins
        if document.begins:
            self._close("+")
        if document.begins and document.ends:
            self._hash.update(_bytes(f"{document.name}\0{len(content)}\0"))
            self._hash.update(content)
            return
        # Of a text in pieces the length is known last. The hash is the same however
        # long the pieces are.
        if document.begins:
            self._hash.update(_bytes(f"{document.name}\0+\0"))
            self._is_open, self._length = True, 0
        self._hash.update(content)
        self._length += len(content)
        if document.ends:
            self._close(".")

    def size(self) -> dict[str, Any]:
        """Returns the number of documents, that of their bytes, and their hash."""
        self._close("+")
        sha256 = self._hash.hexdigest()
        return {"documents": self._documents, "bytes": self._size, "sha256": sha256}

    def _close(self, end: str) -> None:
        if self._is_open:
            self._hash.update(f"\0{self._length}{end}\0".encode())
            self._is_open = False


class Spelled:
    """Counts the documents of a split that spell control tokens.

    Attributes:
        count: How many do so far.
    """

    def __init__(
        self, tokens: Collection[str], pattern: re.Pattern[str] | None = None
    ) -> None:
        """Takes the tokens, and what finds them if that is more than their letters."""
        self.count = 0
        self._pattern = pattern or re.compile("|".join(map(re.escape, tokens)))
        self._reach = max(map(len, tokens), default=0)
        self._end, self._is_counted = "", False

    def add(self, document: Document) -> None:
        """Adds a document or its next piece, which a token may begin before."""
        if document.begins:
            self._end, self._is_counted = "", False
        text = self._end + document.text
        if not self._is_counted and self._pattern.search(text):
            self.count, self._is_counted = self.count + 1, True
        self._end = text[-self._reach :] if self._reach else ""


def _bytes(name: str) -> bytes:
    """Returns a name as bytes; those of a file need not be UTF-8."""
    return name.encode("utf-8", "surrogateescape")
