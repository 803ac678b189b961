"""Text to fixed-length rows on disk, once per (text, tokenizer, length).

A row's index is its identity: the order, the resume position and anything stored beside
the rows refer to it.
"""

import hashlib
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from kdjax.config.schema import DataConfig, TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.data.corpora import open_corpus
from kdjax.data.documents import Corpus, Digest, Document
from kdjax.data.keeping import keep_rows, keep_tokenizer
from kdjax.data.packing import Row, pack
from kdjax.data.sizes import measure_splits
from kdjax.data.stored import file_of, write_rows
from kdjax.text import (
    Lost,
    TextTokenizer,
    changes,
    load_tokenizer,
    train_tokenizer,
    training_key,
)
from kdjax.text.streams import encode_stream

_VERSION = 2  # of how rows are stored, for their key

Track = Callable[[Iterable[Document], str, int], Iterable[Document]]


class Prepared(NamedTuple):
    """Packed rows and everything that identifies them.

    Attributes:
        tokenizer: The tokenizer that encoded the rows.
        splits: Random access to the rows of each split.
        info: What the report prints: source, hashes and split sizes.
    """

    tokenizer: TextTokenizer
    splits: dict[str, Sequence[Row]]
    info: dict[str, Any]

    def bits_per_byte(self, cross_entropy: float, split: str) -> float:
        """Returns nats per token as bits per byte of the split's text."""
        size = self.info["splits"][split]
        return cross_entropy / math.log(2) * size["tokens"] / size["bytes"]


def prepare(
    data: DataConfig,
    tokenizer_config: TokenizerConfig,
    cache_dir: epath.Path,
    *,
    track: Track = lambda documents, split, size: documents,
) -> Prepared:
    """Returns the packed rows of a corpus, preparing them if not cached.

    Args:
        data: The corpus and the row length.
        tokenizer_config: How text becomes ids.
        cache_dir: Where rows and tokenizers are cached.
        track: Wraps the documents of a split while it is tokenised, given its name and
            size in bytes; for a progress bar.

    Raises:
        UsageError: The corpus or the tokenizer cannot be read, or a split is empty.
    """
    corpus = open_corpus(data)
    file = _tokenizer_file(tokenizer_config)
    end = tokenizer_config.end_of_text
    controls = (file.encoder.controls, file.encoder.pattern) if file else ({end}, None)
    sizes = measure_splits(corpus, data, controls, cache_dir)
    for name, size in sizes.items():
        if not size["bytes"]:
            key = "test_fraction" if name == "test" else "validation_fraction"
            raise UsageError(
                f"the {name} split of {data.source!r} is empty{_without(corpus)}; "
                f"raise config.data.{key} or provide more text"
            )
    tokenizer = file or _tokenizer(tokenizer_config, corpus, sizes["train"], cache_dir)
    _check_prefix(tokenizer.prefix, data.length)
    info = {
        "source": data.source,
        "length": data.length,
        "python": platform.python_version(),
        "skipped_files": len(corpus.skipped.files),
        "tokenizer": {
            "kind": tokenizer_config.kind,
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.sha256,
            "prefix": list(tokenizer.prefix),
        },
        "splits": sizes,
    }
    if skipped := sum(corpus.skipped.records.values()):
        info["skipped_records"] = skipped
    if any("control_tokens" in size for size in sizes.values()):
        info["special_tokens"] = data.special_tokens

    def rows(split: str) -> Iterator[Row]:
        size = sizes[split]
        lost = Lost(split, size["bytes"], tokenizer_config.lost_fraction)
        documents = _unchanged(corpus.splits[split](), size)
        tracked = track(documents, split, size["bytes"])
        ids = encode_stream(tokenizer, tracked, data.special_tokens, lost)
        yield from pack(ids, data.length, tokenizer.prefix)
        size["lost_bytes"] = lost.bytes

    def write(directory: epath.Path) -> dict[str, Any]:
        prefix = len(tokenizer.prefix)
        for split, size in sizes.items():
            size |= write_rows(file_of(directory, split), rows(split), prefix)
        return info

    identity = [_VERSION, info, sorted(tokenizer.encoder.controls)]
    kept, sources = keep_rows(cache_dir / "rows" / _key(identity), write)
    stored = _described(kept, tokenizer, tokenizer_config)
    return Prepared(tokenizer, sources, stored)


def _unchanged(
    documents: Iterable[Document], size: dict[str, Any]
) -> Iterator[Document]:
    """Yields documents, and raises if they are others than those that were measured."""
    digest = Digest()
    for document in documents:
        digest.add(document)
        yield document
    if digest.size()["sha256"] != size["sha256"]:
        raise UsageError("the text changed while it was read; start again")


def _without(corpus: Corpus) -> str:
    """Says how much was skipped, if anything."""
    files, records = len(corpus.skipped.files), sum(corpus.skipped.records.values())
    if not files and not records:
        return ""
    return f" ({files:,} files and {records:,} lines or rows were skipped)"


def _check_prefix(prefix: Sequence[int], length: int) -> None:
    if len(prefix) > 1:
        raise UsageError(
            f"the tokenizer begins texts with {len(prefix)} ids, but rows can begin "
            "with at most one; change the post_processor in its tokenizer.json"
        )
    if len(prefix) + 2 > length:
        raise UsageError(
            f"config.data.length = {length} leaves no room for text after the id "
            "that the tokenizer begins with; raise it"
        )


def _described(
    kept: Mapping[str, Any], tokenizer: TextTokenizer, config: TokenizerConfig
) -> dict[str, Any]:
    """Returns what is kept of the rows with what follows from the tokenizer alone.

    Raises:
        UsageError: The rows were made when they could lose more of the text.
    """
    for name, split in kept["splits"].items():
        Lost(name, split["bytes"], config.lost_fraction).check(split["lost_bytes"])
    steps = list(changes(tokenizer.tokenizer))
    return {**kept, "tokenizer": {**kept["tokenizer"], "changes": steps}}


def _tokenizer_file(config: TokenizerConfig) -> TextTokenizer | None:
    """Returns the tokenizer if the config names a file."""
    if config.kind != "file":
        return None
    return load_tokenizer(config.path, config.end_of_text, config.bos)


def _tokenizer(
    config: TokenizerConfig,
    corpus: Corpus,
    train: dict[str, Any],
    cache_dir: epath.Path,
) -> TextTokenizer:
    """Returns a tokenizer trained on the corpus, but only if it is not cached."""
    content = "" if config.kind == "bytes" else train["sha256"]
    path = cache_dir / "tokenizers" / f"{_key([training_key(config), content])}.json"

    def make() -> TextTokenizer:
        return train_tokenizer((d.text for d in corpus.splits["train"]()), config)

    return keep_tokenizer(path, config.end_of_text, make)


def _key(content: Any) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
