"""Text to fixed-length rows on disk, once per (text, tokenizer, length).

A row's index is its identity: the order, the resume position and anything stored beside
the rows refer to it. tensorflow-datasets writes to a temporary directory and renames it
once complete, so a killed preparation leaves nothing that looks complete.
"""

import contextlib
import hashlib
import io
import math
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from kdjax.config.schema import DataConfig, TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.data.corpora import Corpus, Document, open_corpus
from kdjax.text import (
    Lost,
    TextTokenizer,
    changes,
    coverage,
    load_tokenizer,
    train_tokenizer,
    training_key,
)

Row = dict[str, np.ndarray]
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


class PackedRows(tfds.core.GeneratorBasedBuilder):
    """The rows of one tokenised corpus: token ids and segment ids."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        info: dict[str, Any],
        rows: dict[str, Callable[[], Iterator[Row]]],
        **kwargs: Any,
    ) -> None:
        self._metadata = info
        self._rows = rows
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (self._metadata["length"],)
        features = {
            "tokens": tfds.features.Tensor(shape=shape, dtype=np.int32),
            "segments": tfds.features.Tensor(shape=shape, dtype=np.int32),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Rows of packed documents.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(self._metadata),
            disable_shuffling=True,  # a row's index is its identity
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {name: self._generate_examples(name) for name in self._rows}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, Row]]:
        count = self._metadata["splits"][split]  # saved after the last row
        prefix = len(self._metadata["tokenizer"]["prefix"])
        count["rows"] = count["tokens"] = count["largest_id"] = 0
        for index, row in enumerate(self._rows[split]()):
            count["rows"] += 1
            pieces = int(row["segments"].max())
            count["tokens"] += int((row["segments"] > 0).sum()) - prefix * pieces
            count["largest_id"] = max(count["largest_id"], int(row["tokens"].max()))
            yield index, row


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
    controls = file.encoder.pattern if file else re.escape(tokenizer_config.end_of_text)
    sizes = {name: _measure(walk(), controls) for name, walk in corpus.splits.items()}
    for name, size in sizes.items():
        if not size["bytes"]:
            raise UsageError(
                f"the {name} split of {data.source!r} is empty; provide more text or "
                "change config.data.validation_fraction"
            )
    tokenizer = file or _tokenizer(tokenizer_config, corpus, sizes["train"], cache_dir)
    _check_prefix(tokenizer.prefix, data.length)
    info = {
        "source": data.source,
        "length": data.length,
        "python": platform.python_version(),
        "skipped_files": len(corpus.skipped),
        "tokenizer": {
            "kind": tokenizer_config.kind,
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.sha256,
            "prefix": list(tokenizer.prefix),
        },
        "splits": sizes,
    }
    if any("control_tokens" in size for size in sizes.values()):
        info["special_tokens"] = data.special_tokens

    def rows(split: str) -> Iterator[Row]:
        size = sizes[split]
        lost = Lost(split, size["bytes"], tokenizer_config.lost_fraction)
        tracked = track(corpus.splits[split](), split, size["bytes"])
        texts = (document.text for document in tracked)
        ids = tokenizer.encode(texts, data.special_tokens, lost)
        yield from pack(ids, data.length, tokenizer.prefix)
        size["lost_bytes"] = lost.bytes

    builder = PackedRows(
        info=info,
        rows={split: lambda split=split: rows(split) for split in sizes},  # type: ignore[misc]
        data_dir=str(cache_dir / "rows" / _key(_identity(info, tokenizer))),
    )
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints download messages
        builder.download_and_prepare()
    stored = _described(builder.info.metadata, tokenizer, tokenizer_config)
    sources = {split: builder.as_data_source(split=split) for split in sizes}
    return Prepared(tokenizer, sources, stored)


def pack(
    documents: Iterable[np.ndarray], length: int, prefix: Sequence[int] = ()
) -> Iterator[Row]:
    """Yields rows of `length` ids taken from the concatenated documents.

    Segments number the documents within a row from 1. A document that does not fit
    continues in the next row. Every piece begins with the prefix, because a model that
    has always seen `<bos>` before a text may do badly without it. Padding, in the last
    row or where no id would fit after a prefix, has segment 0.

    Example:
        >>> rows = list(pack([np.array([7, 7, 7]), np.array([8, 8])], 4))
        >>> [row["tokens"].tolist() for row in rows]
        [[7, 7, 7, 8], [8, 0, 0, 0]]
        >>> [row["segments"].tolist() for row in rows]
        [[1, 1, 1, 2], [1, 0, 0, 0]]
        >>> rows = pack([np.array([7, 7, 7]), np.array([8, 8])], 5, prefix=[1])
        >>> [row["tokens"].tolist() for row in rows]
        [[1, 7, 7, 7, 0], [1, 8, 8, 0, 0]]
    """
    row, used, segment = _empty(length), 0, 0
    for ids in documents:
        segment += 1
        while len(ids):
            if length - used <= len(prefix):
                yield row
                row, used, segment = _empty(length), 0, 1
            begin = used + len(prefix)
            piece, ids = ids[: length - begin], ids[length - begin :]
            end = begin + len(piece)
            row["tokens"][used:begin] = prefix
            row["tokens"][begin:end] = piece
            row["segments"][used:end] = segment
            used = end
    if used:
        yield row


def _empty(length: int) -> Row:
    return {name: np.zeros(length, np.int32) for name in ("tokens", "segments")}


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


def _identity(info: dict[str, Any], tokenizer: TextTokenizer) -> Any:
    """Returns what the rows depend on, as a key of the cache.

    What makes no difference to them leaves them where older versions put them.
    """
    identity: Any = info
    if "special_tokens" in info:
        identity = [info, sorted(tokenizer.encoder.controls)]
    if not coverage(tokenizer.tokenizer).is_total:
        identity = [identity, "lost_bytes"]  # older rows were not checked
    return identity


def _described(
    metadata: Mapping[str, Any], tokenizer: TextTokenizer, config: TokenizerConfig
) -> dict[str, Any]:
    """Returns the rows' metadata with what follows from the tokenizer alone.

    Raises:
        UsageError: The rows were made when they could lose more of the text.
    """
    splits = {name: dict(split) for name, split in metadata["splits"].items()}
    for name, split in splits.items():
        split.setdefault("lost_bytes", 0)  # older rows, of a tokenizer that loses none
        Lost(name, split["bytes"], config.lost_fraction).check(split["lost_bytes"])
    steps = list(changes(tokenizer.tokenizer))
    described = {**metadata["tokenizer"], "changes": steps}
    return {**metadata, "tokenizer": described, "splits": splits}


def _measure(
    documents: Iterable[Document], controls: str | re.Pattern[str]
) -> dict[str, Any]:
    """Returns a split's document count, size in bytes and content hash.

    If texts spell control tokens, it also returns how many do.
    """
    digest, count, size, spelled = hashlib.sha256(), 0, 0, 0
    for document in documents:
        content = document.text.encode()
        digest.update(f"{document.name}\0{len(content)}\0".encode())
        digest.update(content)
        count, size = count + 1, size + len(content)
        spelled += re.search(controls, document.text) is not None
    found = {"documents": count, "bytes": size, "sha256": digest.hexdigest()}
    return found | ({"control_tokens": spelled} if spelled else {})


def _tokenizer_file(config: TokenizerConfig) -> TextTokenizer | None:
    """Returns the tokenizer if the config names a file."""
    if config.kind != "file":
        return None
    return load_tokenizer(epath.Path(config.path), config.end_of_text, config.bos)


def _tokenizer(
    config: TokenizerConfig,
    corpus: Corpus,
    train: dict[str, Any],
    cache_dir: epath.Path,
) -> TextTokenizer:
    """Returns a tokenizer trained on the corpus, but only if it is not cached."""
    content = "" if config.kind == "bytes" else train["sha256"]
    path = cache_dir / "tokenizers" / f"{_key([training_key(config), content])}.json"
    if path.exists():
        return load_tokenizer(path, config.end_of_text)
    tokenizer = train_tokenizer((d.text for d in corpus.splits["train"]()), config)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(path)
    return tokenizer


def _key(content: Any) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
