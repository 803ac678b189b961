"""Corpora: named sources of documents, in splits.

To add one, write a function of `DataConfig` that returns a `Corpus`, register it in
`CORPORA` and add its name to `config.SOURCES`. Splits are functions, so that a corpus
can be iterated several times without being held in memory.
"""

import contextlib
import glob
import hashlib
import importlib
import json
import logging
import pathlib
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from kdjax.config.schema import DataConfig
from kdjax.core.errors import UsageError

# Directories of the standard library that hold no sources of its own, or that some
# installations lack.
_NOT_LIBRARY = {
    *("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"),
    *("ensurepip", "lib2to3", "pydoc_data"),
}
_SUFFIXES = {".txt", ".md", ".jsonl"}
# With fewer files than this, splitting by whole files would be too coarse.
_ENOUGH_FILES = 20
_PART = 1 << 13  # characters


class Document(NamedTuple):
    """One text; its name determines its split."""

    name: str
    text: str


class Corpus(NamedTuple):
    """Documents in splits; "train" and "validation" always exist.

    Attributes:
        splits: For each split, a function that yields its documents.
        skipped: Names of unreadable files, filled during iteration.
    """

    splits: dict[str, Callable[[], Iterator[Document]]]
    skipped: set[str]


def open_corpus(config: DataConfig) -> Corpus:
    """Returns the corpus that the config names.

    Raises:
        UsageError: Nothing matches the pattern, or the data set is not prepared or has
            no such text feature.
    """
    return CORPORA[config.source.partition(":")[0]](config)


def is_held_out(name: str, fraction: float) -> bool:
    """Returns whether the name's hash falls in the held-out fraction.

    It depends on the name alone, so adding files moves no others between splits.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def stdlib(config: DataConfig) -> Corpus:
    """Returns the running Python's standard library, and its manual as prose."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    paths = [
        path
        for path in sorted(root.rglob("*.py"))
        if not _NOT_LIBRARY & set(path.relative_to(root).parts)
    ]
    skipped: set[str] = set()

    def walk(held_out: bool) -> Iterator[Document]:
        for path in paths:
            name = path.relative_to(root).as_posix()
            if is_held_out(name, config.validation_fraction) == held_out:
                text = _read(path, "skip", skipped)
                yield from () if text is None else (Document(name, text),)

    def prose() -> Iterator[Document]:
        topics = importlib.import_module("pydoc_data.topics").topics
        yield from (Document(name, text) for name, text in sorted(topics.items()))

    splits = {"train": lambda: walk(False), "validation": lambda: walk(True)}
    return Corpus(splits | {"prose": prose}, skipped)


def files(config: DataConfig) -> Corpus:
    """Returns the user's own .txt, .md and .jsonl files."""
    matches = glob.glob(config.pattern, recursive=True)
    paths = sorted(p for p in map(pathlib.Path, matches) if p.suffix in _SUFFIXES)
    if not paths:
        raise UsageError(
            f"config.data.pattern = {config.pattern!r} matches no .txt, .md or .jsonl "
            f"file (relative to {pathlib.Path.cwd()})"
        )
    skipped: set[str] = set()

    def documents() -> Iterator[tuple[str, Document]]:
        for path in paths:
            text = _read(path, config.unreadable, skipped)
            if text is None:
                continue
            for document in _documents(path, text, config.text_field):
                by_file = len(paths) >= _ENOUGH_FILES
                yield path.as_posix() if by_file else document.name, document

    return Corpus(_held_out_splits(documents, config.validation_fraction), skipped)


def tfds_text(config: DataConfig) -> Corpus:
    """Returns the text feature of any tensorflow-datasets data set."""
    name = config.source.partition(":")[2]
    builder = _tfds_builder(name, config.allow_download)
    features = builder.info.features
    listed = [k for k in features if isinstance(features[k], tfds.features.Text)]
    if config.text_field not in listed:
        raise UsageError(
            f"config.data.text_field = {config.text_field!r} is not a text feature of "
            f"{name}; it has: {', '.join(listed) or 'none'}"
        )

    def walk(split: str) -> Iterator[Document]:
        for index, row in enumerate(builder.as_data_source(split=split)):
            text = row[config.text_field]
            yield Document(f"{split}:{index}", text.decode("utf-8", "replace"))

    held_out = next((s for s in ("validation", "test") if s in builder.info.splits), "")
    if held_out:
        return Corpus(
            {"train": lambda: walk("train"), "validation": lambda: walk(held_out)},
            set(),
        )

    def documents() -> Iterator[tuple[str, Document]]:
        yield from ((document.name, document) for document in walk("train"))

    return Corpus(_held_out_splits(documents, config.validation_fraction), set())


CORPORA: dict[str, Callable[[DataConfig], Corpus]] = {
    "stdlib": stdlib,
    "files": files,
    "tfds": tfds_text,
}


def _held_out_splits(
    documents: Callable[[], Iterable[tuple[str, Document]]], fraction: float
) -> dict[str, Callable[[], Iterator[Document]]]:
    """Returns train and validation, by the hash of each document's key."""

    def walk(held_out: bool) -> Iterator[Document]:
        for key, document in documents():
            if is_held_out(key, fraction) == held_out:
                yield document

    return {"train": lambda: walk(False), "validation": lambda: walk(True)}


def _read(path: pathlib.Path, unreadable: str, skipped: set[str]) -> str | None:
    """Returns the file's text, or None after noting that it was skipped."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if unreadable == "refuse":
            raise UsageError(
                f"{path} cannot be read as UTF-8 ({error}); fix it, or set "
                "config.data.unreadable = 'skip'"
            ) from None
        skipped.add(path.as_posix())
        return None


def _documents(path: pathlib.Path, text: str, field: str) -> Iterator[Document]:
    """Splits a file into documents: lines of .jsonl, fixed-size parts otherwise."""
    name = path.as_posix()
    if path.suffix == ".jsonl":
        # Not `splitlines`: JSON strings may contain U+2028 and the like unescaped.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield Document(
                    f"{name}:{number}", _json_text(line, field, name, number)
                )
    else:
        for start in range(0, len(text), _PART):
            yield Document(f"{name}:{start}", text[start : start + _PART])


def _json_text(line: str, field: str, name: str, number: int) -> str:
    try:
        text = json.loads(line)[field]
        text.encode()  # a lone surrogate cannot be encoded
    except (ValueError, KeyError, TypeError, AttributeError):
        text = None
    if text is None:
        raise UsageError(
            f"{name} line {number} is not a JSON object with text in {field!r}; set "
            "config.data.text_field to the right name"
        )
    return text


def _tfds_builder(name: str, allow_download: bool) -> Any:
    """Returns a prepared builder, downloading only if allowed."""
    alternatives = (
        "use config.data.source = 'stdlib' (needs no download) or 'files' with "
        "config.data.pattern"
    )
    try:
        with _quiet():
            builder = tfds.builder(name, file_format="array_record")
            is_prepared = builder.is_prepared()
    except (AssertionError, ImportError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise UsageError(
            f"no tfds data set {name!r} ({first}); {alternatives}"
        ) from None
    if is_prepared:
        return builder
    if not allow_download:
        raise UsageError(
            f"tfds data set {name!r} is not prepared in {builder.data_dir}; set "
            f"config.data.allow_download = True to download it, or {alternatives}"
        )
    _give_up_early()
    try:
        builder.download_and_prepare()
    # A builder is third-party code: it may fail on connections, server errors,
    # checksums, or libraries that only this data set needs.
    except Exception as error:
        first = str(error).partition("\n")[0][:120]
        raise UsageError(
            f"cannot download {name!r} ({first}); {alternatives}"
        ) from None
    return builder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences tfds warnings that our error message states better."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _give_up_early() -> None:
    """Makes tfds fail at the first refused connection, without minutes of retries."""
    downloader = importlib.import_module("tensorflow_datasets.core.download.downloader")
    downloader.MAX_RETRIES = 0  # type: ignore[attr-defined]
