"""The rows of an experiment, made by one process while all others wait."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from kdjax.config.schema import Config, TokenizerConfig
from kdjax.core.locks import Lock
from kdjax.core.logging import Progress, say, size_of
from kdjax.data import Document, Prepared, prepare
from kdjax.experiment.locking import lock_on
from kdjax.experiment.workdir import cache_directory
from kdjax.parallel.sharding import barrier


def prepare_rows(config: Config, tokenizer: TokenizerConfig) -> Prepared:
    """Returns the rows, which the first process makes while the others wait.

    Other experiments that need the same rows wait as well.

    Args:
        config: The config.
        tokenizer: Its tokenizer, with the path of its file.

    Raises:
        UsageError: The corpus or the tokenizer cannot be read, or a split is empty.
    """
    cache = cache_directory(config)

    def track(documents: Iterable[Document], split: str, size: int) -> Iterator[Any]:
        with Progress(f"tokenising {split}", size, unit="byte") as progress:
            for document in documents:
                yield document
                progress.update(len(document.text.encode()))

    def rows() -> Prepared:
        return prepare(config.data, tokenizer, cache, track=track)

    identity = dataclasses.asdict(config.data), dataclasses.asdict(tokenizer)
    if jax.process_index() == 0:
        with Lock(lock_on(cache, "rows", identity)).held("rows", is_needed=False):
            prepared = rows()
    barrier("rows")
    if jax.process_index() != 0:
        prepared = rows()
    for name, size in prepared.info["splits"].items():
        lost = f", {size['lost_bytes']:,} bytes without an id"
        say(
            f"data: {name}: {size['rows']:,} rows, {size_of(size['bytes'])}"
            + (lost if size["lost_bytes"] else "")
        )
    return prepared
