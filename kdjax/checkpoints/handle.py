"""`StoredModel`: the common interface to models on disk."""

import abc
from typing import Any

from etils import epath
from jax.sharding import Mesh

from kdjax.config.architecture import ModelConfig
from kdjax.config.schema import Rules
from kdjax.core.errors import UsageError
from kdjax.models.model import Model, Params
from kdjax.text import TextTokenizer

_DTYPES = (None, "float32", "bfloat16")


class StoredModel(abc.ABC):
    """A model on disk, in any supported format.

    Everything is read lazily, and headers only once. So every member but `path` may
    raise a UsageError: something is missing, damaged or unknown to kdjax.

    Attributes:
        path: The model's directory or file.
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
        """The metadata of a model that kdjax trained; empty for all others."""

    @property
    @abc.abstractmethod
    def tokenizer_path(self) -> epath.Path:
        """The tokenizer's file, which `config.tokenizer.path` accepts as well."""

    @property
    @abc.abstractmethod
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that the model's ids belong to."""

    @property
    @abc.abstractmethod
    def stop_tokens(self) -> tuple[int, ...]:
        """The ids that end a text; the first one ends a document."""

    @property
    @abc.abstractmethod
    def formats(self) -> list[str]:
        """The weights' formats as the file names them, the most common first."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """One hash over the weights; computing it may read them all."""

    @abc.abstractmethod
    def shares_ids(self, tokenizer: TextTokenizer) -> bool:
        """Returns whether the model and a tokenizer agree on what each id means."""

    def load(
        self,
        mesh: Mesh | None = None,
        rules: Rules = (),
        dtype: str | None = None,
    ) -> tuple[Model, Params]:
        """Returns the model and its parameters.

        Args:
            mesh: The devices for the parameters; None: the first device.
            rules: Sharding rules that take precedence over the default ones.
            dtype: Of parameters and computation, "float32" or "bfloat16". None:
                parameters as stored; a model that kdjax trained computes as it did in
                training, others in bfloat16 if all tensors are stored in it.

        Raises:
            UsageError: The files do not hold this model, complete and finite.
        """
        if dtype not in _DTYPES:
            raise UsageError(f"dtype must be 'float32' or 'bfloat16'; it is {dtype!r}")
        return self._load(mesh, rules, dtype)

    @abc.abstractmethod
    def _load(
        self, mesh: Mesh | None, rules: Rules, dtype: str | None
    ) -> tuple[Model, Params]:
        """Implements `load`, after its check of the dtype."""
