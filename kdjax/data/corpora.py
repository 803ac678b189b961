"""Corpora: named sources of documents, in splits.

To add one, write a function of `DataConfig` that returns a `Corpus`, register it in
`CORPORA` and add its name to `config.SOURCES`. Splits are functions, so that a corpus
can be iterated several times without being held in memory.
"""

import importlib
import os
import pathlib
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial

from kdjax.config.schema import DataConfig
from kdjax.data.documents import Corpus, Document, Skipped, split_names, split_of
from kdjax.data.files import files

# Directories of the standard library that hold no sources of its own, or that some
# installations lack.
_NOT_LIBRARY = {
    *("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"),
    *("ensurepip", "lib2to3", "pydoc_data"),
}


def open_corpus(config: DataConfig) -> Corpus:
    """Returns the corpus that the config names.

    Raises:
        UsageError: Nothing matches the pattern, or the data set is not prepared or has
            no such text feature.
    """
    return CORPORA[config.source.partition(":")[0]](config)


def stdlib(config: DataConfig) -> Corpus:
    """Returns the running Python's standard library, and its manual as prose."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(_sources(root))
    skipped = Skipped()

    def walk(split: str) -> Iterator[Document]:
        for path in paths:
            name = path.relative_to(root).as_posix()
            if split_of(name, config) == split:
                try:
                    text = path.read_text(encoding="utf-8")
                except (OSError, UnicodeDecodeError):
                    skipped.files.add(path.as_posix())
                else:
                    yield Document(name, text)

    def prose() -> Iterator[Document]:
        topics = importlib.import_module("pydoc_data.topics").topics
        yield from (Document(name, text) for name, text in sorted(topics.items()))

    splits = {name: partial(walk, name) for name in split_names(config)}
    manual = pathlib.Path(
        importlib.import_module("pydoc_data").__path__[0], "topics.py"
    )
    return Corpus(splits | {"prose": prose}, skipped, (*paths, manual))


def _sources(root: pathlib.Path) -> Iterator[pathlib.Path]:
    for directory, within, files_ in os.walk(root):
        within[:] = {*within} - _NOT_LIBRARY  # site-packages may be large
        yield from (pathlib.Path(directory, x) for x in files_ if x.endswith(".py"))


def tfds(config: DataConfig) -> Corpus:
    """Returns a text feature of a tensorflow-datasets data set; see `tfds_text`."""
    from kdjax.data.tfds_text import tfds_text  # here: it takes long to import

    return tfds_text(config)


CORPORA: dict[str, Callable[[DataConfig], Corpus]] = {
    "stdlib": stdlib,
    "files": files,
    "tfds": tfds,
}
