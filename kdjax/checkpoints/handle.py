"""`StoredModel`: all that can be asked of a model on disk."""

import abc
from typing import Any

from etils import epath
from jax.sharding import Mesh

from kdjax.config.schema import ModelConfig, Rules
from kdjax.core.errors import UsageError
from kdjax.models.model import Model, Params
from kdjax.text import TextTokenizer

_DTYPES = (None, "float32", "bfloat16")


class StoredModel(abc.ABC):
    """A model on disk, whoever wrote it.

    Nothing is read before it is asked for, and headers are read once. So every answer
    but `path` may be a UsageError: something is missing, damaged, or unknown to kdjax.

    Attributes:
        path: Where it lies: a directory or a file.
    """

    def __init__(self, path: epath.Path) -> None:
        self.path = path

    @property
    @abc.abstractmethod
    def config(self) -> ModelConfig:
        """The architecture."""

    @property
    @abc.abstractmethod
    def card(self) -> dict[str, Any]:
        """What kdjax wrote of a model that it trained; empty for all others."""

    @property
    @abc.abstractmethod
    def tokenizer_path(self) -> epath.Path:
        """The file with the tokenizer, which `config.tokenizer.path` takes as well."""

    @property
    @abc.abstractmethod
    def tokenizer(self) -> TextTokenizer:
        """What the ids mean."""

    @property
    @abc.abstractmethod
    def stop_tokens(self) -> tuple[int, ...]:
        """The ids that end a text, the one that ends a document first."""

    @property
    @abc.abstractmethod
    def formats(self) -> list[str]:
        """The formats of the weights in the file's own words, most weights' first."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """One hash over the weights; to take it can mean to read them all."""

    @abc.abstractmethod
    def shares_ids(self, tokenizer: TextTokenizer) -> bool:
        """Returns whether ids mean to the model what they mean to a tokenizer."""

    def load(
        self,
        mesh: Mesh | None = None,
        rules: Rules = (),
        dtype: str | None = None,
    ) -> tuple[Model, Params]:
        """Returns the model and its parameters.

        Args:
            mesh: Where the parameters go; None: to the first device.
            rules: Sharding rules that go before the default ones.
            dtype: Of parameters and computation, "float32" or "bfloat16". None:
                parameters as they are stored; a model that kdjax trained computes as it
                did then, others in bfloat16 if all of it is stored in that.

        Raises:
            UsageError: The files do not hold this model, whole and finite.
        """
        if dtype not in _DTYPES:
            raise UsageError(f"dtype must be 'float32' or 'bfloat16'; it is {dtype!r}")
        return self._load(mesh, rules, dtype)

    @abc.abstractmethod
    def _load(
        self, mesh: Mesh | None, rules: Rules, dtype: str | None
    ) -> tuple[Model, Params]:
        """Returns what `load` does, for a dtype that there is."""
