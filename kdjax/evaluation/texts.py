"""Held-out text that is read for an evaluation and not kept: files to batches."""

import itertools
import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from kdjax.config.schema import DataConfig
from kdjax.core.errors import UsageError
from kdjax.data import Document, open_corpus
from kdjax.data.packing import Row, pack
from kdjax.parallel.sharding import Batch, data_shard, to_devices
from kdjax.text import Lost, TextTokenizer
from kdjax.text.streams import encode_stream


class TextFiles:
    """Text files as batches of packed rows, made anew each time, and their sizes.

    Rows are those that an experiment makes of the same documents and length, so that
    bits per byte are, too.

    Attributes:
        bytes: Of the text, once the batches have been drawn.
        tokens: Of the text, the same.
    """

    def __init__(
        self,
        data: DataConfig,
        tokenizer: TextTokenizer,
        *,
        mesh: Mesh,
        batch_size: int,
        limit: int = 0,
    ) -> None:
        """Reads nothing yet.

        Args:
            data: The files, of which nothing is held out, and the length of a row.
            tokenizer: The tokenizer.
            mesh: The devices.
            batch_size: Rows of a batch, divisible by the devices along the batch.
            limit: How many documents to read, from the first; 0: all.

        Raises:
            UsageError: No file matches, or rows are too short for the tokenizer.
        """
        self._documents = open_corpus(data).splits["train"]
        self._data, self._tokenizer, self._limit = data, tokenizer, limit
        self._mesh, self._batch_size = mesh, batch_size
        self.bytes = self.tokens = 0
        self._lost = Lost("", 0, 0.0)
        if len(tokenizer.prefix) + 2 > data.length:
            raise UsageError(
                f"config.data.length = {data.length} leaves no room for text after the "
                "id that the tokenizer begins with; raise it"
            )

    def batches(self) -> Iterator[Batch]:
        """Yields batches of one shape; the last one is padded.

        Raises:
            UsageError: A file cannot be read, or there is no text.
        """
        self.bytes = self.tokens = 0
        # The text's size is not known yet; no share of this one is too large.
        self._lost = Lost("", sys.maxsize, 1.0)
        share = data_shard(self._mesh, self._batch_size)
        rows = self._rows()
        while batch := list(itertools.islice(rows, self._batch_size)):
            empty = {name: np.zeros_like(values) for name, values in batch[0].items()}
            batch += [empty] * (self._batch_size - len(batch))
            mine = [batch[row] for row in share.rows]
            stacked = {name: np.stack([row[name] for row in mine]) for name in empty}
            yield to_devices(stacked, self._mesh, share)
        if not self.tokens:
            raise UsageError(f"{self._data.pattern} holds no text")

    def _rows(self) -> Iterator[Row]:
        prefix = self._tokenizer.prefix
        special = self._data.special_tokens
        ids = encode_stream(self._tokenizer, self._read(), special, self._lost)
        for row in pack(ids, self._data.length, prefix):
            pieces = int(row["segments"].max())
            self.tokens += int((row["segments"] > 0).sum()) - len(prefix) * pieces
            yield row

    def _read(self) -> Iterator[Document]:
        count = 0
        for document in self._documents():
            count += document.begins
            if self._limit and count > self._limit:
                return
            self.bytes += len(document.text.encode())
            yield document

    def finish(self, metrics: dict[str, Any], split: str) -> dict[str, Any]:
        """Adds accuracy, perplexity, bits per byte and sizes to means over tokens."""
        del split
        bins = metrics["calibration"]
        right = sum(each.accuracy * each.count for each in bins)
        loss = metrics["cross_entropy"]
        perplexity = math.exp(loss) if loss < 700 else math.inf
        bits = loss / math.log(2) * self.tokens / self.bytes
        return metrics | {
            "accuracy": right / max(1, sum(each.count for each in bins)),
            "perplexity": perplexity,
            "bits_per_byte": bits,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "lost_bytes": self._lost.bytes,
        }
