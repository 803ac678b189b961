"""What Hugging Face directories and GGUF files have in common."""

import abc
import collections
import functools
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath
from jax.sharding import Mesh

from kdjax.checkpoints.handle import StoredModel
from kdjax.checkpoints.hf.families import Family
from kdjax.checkpoints.hf.load import load_tensors
from kdjax.config.architecture import ModelConfig
from kdjax.config.schema import Rules
from kdjax.core.logging import say
from kdjax.formats.safetensors import Stored
from kdjax.models.model import Model, Params
from kdjax.text import TextTokenizer, TokenizerFile, same_ids


class PretrainedModel(StoredModel):
    """A published model of one of the known families."""

    @property
    @abc.abstractmethod
    def _architecture(self) -> tuple[Family, ModelConfig]:
        """The family and the architecture."""

    @property
    @abc.abstractmethod
    def _tensors(self) -> Mapping[str, Stored]:
        """The tensors by name."""

    @property
    @abc.abstractmethod
    def _tokenizer_file(self) -> TokenizerFile:
        """The tokenizer's file, which does not tell which token ends a document."""

    @abc.abstractmethod
    def _files(self) -> Iterable[epath.Path]:
        """Returns the files with the architecture and the weights, in order."""

    @property
    def family(self) -> Family:
        """The family, which describes its config and its tensors."""
        return self._architecture[0]

    @property
    def config(self) -> ModelConfig:
        """The architecture; its dtype is not that of the weights."""
        return self._architecture[1]

    @property
    def card(self) -> dict[str, Any]:
        """Always empty: kdjax did not train the model."""
        return {}

    @functools.cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer stored with the weights.

        Where its files contradict each other on the BOS token, `add_bos_token` counts,
        as in a GGUF file, and a line says so.
        """
        path, end = str(self.tokenizer_path), self.stop_tokens[0]
        file = self._tokenizer_file
        if not (conflict := file.contradiction(path)):
            return file.ended_by(end, path)
        say(f"{conflict}; following the latter")
        return file.ended_by(end, path, "always" if file.add_bos else "never")

    @functools.cached_property
    def formats(self) -> list[str]:
        """The formats, such as ["BF16"] or, for 4-bit weights, ["Q4_1", "F32"]."""
        weights: collections.Counter[str] = collections.Counter()
        for tensor in self._tensors.values():
            if tensor.dtype is not None:  # else a mask, not a weight
                weights[tensor.kind] += math.prod(tensor.shape)
        return [name for name, _ in weights.most_common()]

    @functools.cached_property
    def fingerprint(self) -> str:
        """One hash over the names and contents of all files but the tokenizer's."""
        total = hashlib.sha256()
        for file in self._files():
            total.update(file.name.encode())
            with file.open("rb") as content:
                total.update(hashlib.file_digest(content, "sha256").digest())
        return total.hexdigest()

    def shares_ids(self, tokenizer: TextTokenizer) -> bool:
        """Returns whether ids mean the same; texts may be tokenized differently."""
        return same_ids(self._tokenizer_file, tokenizer)

    def _load(
        self, mesh: Mesh | None, rules: Rules, dtype: str | None
    ) -> tuple[Model, Params]:
        return load_tensors(
            *self._architecture,
            self._tensors,
            source=str(self.path),
            mesh=mesh,
            rules=rules,
            dtype=dtype,
        )


def ids_among(values: Iterable[Any]) -> tuple[int, ...]:
    """Returns the values that are valid ids, without duplicates.

    Example:
        >>> ids_among([2, None, True, 2, 7])
        (2, 7)
    """
    ids = (value for value in values if type(value) is int and value >= 0)
    return tuple(dict.fromkeys(ids))
