"""The user's own files as documents in splits."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from kdjax.config.schema import DataConfig
from kdjax.core.errors import UsageError
from kdjax.core.logging import say
from kdjax.data.documents import Corpus, Document, Skipped, split_names, split_of
from kdjax.data.json_files import has_lines, is_json_array, json_array, json_lines
from kdjax.data.matching import LINES, TEXT, Found, find
from kdjax.data.paragraphs import paragraphs
from kdjax.data.parquet_files import parquet_texts
from kdjax.data.reading import Unreadable, by_lines, decoded, unpacked
from kdjax.data.stretches import stretches

# With fewer files than this, splitting by whole files would be too coarse.
_ENOUGH_FILES = 20
# Shorter texts are not divided; the parts would say nothing.
_SHORT = 1 << 13  # characters


def files(config: DataConfig) -> Corpus:
    """Returns the user's own files.

    Raises:
        UsageError: There are none; while they are read, that one cannot be.
    """
    found = find(config.pattern)
    reader = _Reader(config, found)
    return Corpus(
        {name: partial(reader.walk, name) for name in split_names(config)},
        reader.skipped,
        tuple(file.status for file in found),
    )


class _Reader:
    """Reads the files, each time for one split.

    Of enough files, each is in one split by its name. Of fewer, or if none or all would
    be in the validation split, each record is by its own name, and long texts are
    divided, as `stretches` says.
    """

    def __init__(self, config: DataConfig, found: Sequence[Found]) -> None:
        self.skipped = Skipped()
        self._config, self._files = config, found
        whole = Counter(split_of(file.name, config) for file in found)
        # Whatever the test split is, so that it takes nothing from this one.
        is_split = 0 < whole["validation"] < len(found)
        self._by_file = len(found) >= _ENOUGH_FILES and is_split
        how = "; lines, rows or parts of each are held out"
        if not config.validation_fraction:  # they are only measured on
            how = ""
        elif self._by_file:
            how = f"; held out whole: {whole['validation']:,}"
            if config.test_fraction:
                how += f" for validation, {whole['test']:,} for test"
        elif len(found) >= _ENOUGH_FILES:
            how = f"; none would be held out whole, so {how.removeprefix('; ')}"
        files = "1 file" if len(found) == 1 else f"{len(found):,} files"
        say(f"data: {files}{how}")
        self._lengths: dict[str, int] = {}  # of texts that were read to their ends

    def walk(self, split: str) -> Iterator[Document]:
        """Yields the documents of a split."""
        self.skipped.records[split] = 0  # it may have been walked before
        for file in self._files:
            if self._by_file and not self._is_in(split, file.name):
                continue
            try:
                yield from self._documents(file, split)
            except Unreadable as error:
                self._refuse(f"{file.name} {error}", "it")
                self.skipped.files.add(file.name)

    def _is_in(self, split: str, name: str) -> bool:
        return split_of(name, self._config) == split

    def _documents(self, file: Found, split: str) -> Iterator[Document]:
        def wanted(number: int) -> bool:
            return self._by_file or self._is_in(split, f"{file.name}:{number}")

        field = self._config.text_field
        if file.kind in TEXT:
            yield from self._text(file, split)
        elif file.kind == ".parquet":
            for row, text in parquet_texts(file.path, field, wanted):
                yield from self._record(file, f"row {row}", row, text, split)
        else:
            with unpacked(file.path, file.packing) as stream:
                is_array = is_json_array(stream) and file.kind not in LINES
                if file.kind == ".json" and not (is_array or has_lines(stream)):
                    raise Unreadable("has neither an array nor one object a line")
                read = json_array if is_array else json_lines
                for record in read(stream, wanted):
                    where = f"{'element' if is_array else 'line'} {record.number}"
                    texts = record.texts(field)
                    yield from self._record(file, where, record.number, texts, split)

    def _record(
        self, file: Found, where: str, number: int, texts: Iterator[str], split: str
    ) -> Iterator[Document]:
        """Yields the text of a record, which may be in pieces."""
        name, begins = f"{file.name}:{number}", True
        try:
            text = next(texts, "")
        except Unreadable as error:
            self._refuse(f"{file.name} {where} {error}", f"the {where.split()[0]}")
            self.skipped.records[split] += 1
            return
        for following in texts:
            yield Document(name, text, begins, ends=False)
            text, begins = following, False
        yield Document(name, text, begins, ends=True)

    def _text(self, file: Found, split: str) -> Iterator[Document]:
        """Yields the documents of a text file."""
        with unpacked(file.path, file.packing) as stream:
            chunks = by_lines(decoded(stream))
            ahead = list(itertools.islice(chunks, 2))
            chunks = itertools.chain(ahead, chunks)
            length = len(ahead[0]) if len(ahead) == 1 else self._length(file)
            if self._config.documents == "blank_lines":
                for line, document in paragraphs(chunks, file.name):
                    if self._by_file or self._is_in(split, f"{file.name}:{line}"):
                        yield document
            elif self._by_file or length <= _SHORT:
                yield from self._whole(file, chunks, split)
            else:
                for piece in stretches(
                    chunks,
                    length,
                    self._config.validation_fraction,
                    self._config.test_fraction,
                ):
                    if piece.split == split:
                        name = f"{file.name}:{piece.start}"
                        yield Document(name, piece.text, piece.begins, piece.ends)

    def _whole(
        self, file: Found, chunks: Iterator[str], split: str
    ) -> Iterator[Document]:
        """Yields the pieces of a file that is one document."""
        name, begins = f"{file.name}:0", True
        text = next(chunks, "")
        if not text or not (self._by_file or self._is_in(split, name)):
            return
        for following in chunks:
            yield Document(name, text, begins, ends=False)
            text, begins = following, False
        yield Document(name, text, begins, ends=True)

    def _length(self, file: Found) -> int:
        """Returns how long a text is, after reading it to its end.

        So nothing is used of a text that turns out to be unreadable.
        """
        if file.name not in self._lengths:
            with unpacked(file.path, file.packing) as stream:
                self._lengths[file.name] = sum(map(len, decoded(stream)))
        return self._lengths[file.name]

    def _refuse(self, problem: str, what: str) -> None:
        """Raises, unless what cannot be read is skipped."""
        if self._config.unreadable == "refuse":
            advice = "" if ";" in problem else f"; fix {what}"
            raise UsageError(
                f"{problem}{advice}, or set config.data.unreadable = 'skip'"
            )
