"""The sizes and hashes of a corpus's splits, read again only if its files changed."""

import dataclasses
import hashlib
import os
import pathlib
import re
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from etils import epath

from kdjax.config.parsing import from_mapping
from kdjax.config.schema import DataConfig
from kdjax.core.errors import UsageError
from kdjax.core.files import read_json, write_json
from kdjax.core.mirrors import pull, push
from kdjax.data.documents import Corpus, Digest, Document, Spelled

Sizes = dict[str, dict[str, Any]]
_RECENT = 2 * 10**9  # ns; a file this young may change again and look the same


@dataclasses.dataclass(frozen=True)
class _Size:
    """What `measure` returns."""

    documents: int
    bytes: int
    sha256: str
    control_tokens: int = 0

    def plain(self) -> dict[str, Any]:
        found = dataclasses.asdict(self)
        if not self.control_tokens:
            del found["control_tokens"]
        return found


@dataclasses.dataclass(frozen=True)
class _Kept:
    """What is kept of a corpus."""

    sizes: Mapping[str, _Size]
    files: tuple[str, ...]
    records: Mapping[str, int]


def measure_splits(
    corpus: Corpus,
    data: DataConfig,
    controls: tuple[Collection[str], re.Pattern[str] | None],
    cache_dir: epath.Path,
) -> Sizes:
    """Returns the sizes of each split, and fills `corpus.skipped`.

    Every document is read, unless the names, sizes and times of modification of the
    corpus's files are what they were when all of them were last read.

    Args:
        corpus: The corpus.
        data: Its config.
        controls: The control tokens, and what finds them; see `Spelled`.
        cache_dir: Where sizes are kept.
    """
    status = [_status(path) for path in corpus.paths]
    path = cache_dir / "sizes" / f"{_key(data, controls, status)}.json"
    if status and not path.exists():
        pull(path)
    if status and (known := _known(path, corpus)) is not None:
        return known
    sizes = {
        split: measure(walk(), Spelled(*controls))
        for split, walk in corpus.splits.items()
    }
    newest = max((modified for _, _, modified in status), default=0)
    if status and newest < time.time_ns() - _RECENT:
        path.parent.mkdir(parents=True, exist_ok=True)
        files, records = sorted(corpus.skipped.files), corpus.skipped.records
        write_json(path, {"sizes": sizes, "files": files, "records": records})
        push(path)
    return sizes


def measure(documents: Iterable[Document], spelled: Spelled) -> dict[str, Any]:
    """Returns a split's document count, size in bytes and content hash.

    If texts spell control tokens, it also returns how many do.
    """
    digest = Digest()
    for document in documents:
        digest.add(document)
        spelled.add(document)
    found = digest.size()
    return found | ({"control_tokens": spelled.count} if spelled.count else {})


def _status(path: pathlib.Path | str) -> tuple[str, int, int]:
    """Returns a file's name, size and time of modification, zeros if it is gone.

    Of one in a bucket the name tells all.
    """
    if isinstance(path, str):
        return path, 0, 0
    try:
        found = os.stat(path)
    except OSError:
        return str(path), 0, 0
    return str(path), found.st_size, found.st_mtime_ns


def _key(
    data: DataConfig,
    controls: tuple[Collection[str], re.Pattern[str] | None],
    status: list[tuple[str, int, int]],
) -> str:
    """Returns a hash of everything that the sizes depend on."""
    tokens, pattern = controls
    spelled = (sorted(tokens), pattern and (pattern.pattern, pattern.flags))
    choices = (data.source, data.text_field, data.documents, data.unreadable)
    held_out: Any = data.validation_fraction
    if data.test_fraction:  # else it is the key of older versions
        held_out = held_out, data.test_fraction
    # Names in a bucket are the same wherever they are read from.
    where = os.getcwd() if any(modified for _, _, modified in status) else ""
    content = repr((choices, held_out, spelled, where, status))
    return hashlib.sha256(content.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _known(path: epath.Path, corpus: Corpus) -> Sizes | None:
    """Returns sizes that were kept, and notes what was skipped; None if damaged."""
    if not path.exists():
        return None
    try:
        kept: _Kept = from_mapping(_Kept, read_json(path), str(path))
    except UsageError:
        return None
    if kept.sizes.keys() != corpus.splits.keys():
        return None
    # Older versions may have split a corpus so that nothing was held out.
    if not all(size.documents for size in kept.sizes.values()):
        return None
    corpus.skipped.files.update(kept.files)
    corpus.skipped.records.update(kept.records)
    return {split: size.plain() for split, size in kept.sizes.items()}
