"""kdjax's own format: `params/`, a tokenizer, and `model.json`, the model card."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from kdjax.checkpoints.handle import StoredModel
from kdjax.checkpoints.hf.matching import parameter_shapes
from kdjax.config.architecture import ModelConfig
from kdjax.config.parsing import from_mapping
from kdjax.config.schema import Rules
from kdjax.core.errors import UsageError
from kdjax.core.files import write_json
from kdjax.models.model import Model, Params, build
from kdjax.parallel.sharding import abstract, make_placement, shardings
from kdjax.text import TextTokenizer, load_tokenizer

_CARD, _TOKENIZER = "model.json", "tokenizer.json"
_REQUIRED = {"model", "tokenizer", "end_of_text", "sha256"}


class NativeModel(StoredModel):
    """A model that kdjax trained."""

    @functools.cached_property
    def card(self) -> dict[str, Any]:
        """The content of `model.json`."""
        return load_card(self.path)

    @functools.cached_property
    def config(self) -> ModelConfig:
        """The architecture, with the attention kernel reset to "auto".

        The kernel that the model was trained with may be unavailable on this machine.
        """
        source = str(self.path / _CARD)
        config = from_mapping(ModelConfig, self.card["model"], source)
        return dataclasses.replace(config, attention="auto")

    @property
    def tokenizer_path(self) -> epath.Path:
        """The tokenizer.json that was written with the model."""
        return self.path / _TOKENIZER

    @functools.cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that the model was trained with."""
        path = self.tokenizer_path
        tokenizer = load_tokenizer(path, self.card["end_of_text"])
        if not self.shares_ids(tokenizer):
            raise UsageError(f"{path} was changed or damaged")
        return tokenizer

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """The tokens that end a document and, if different, an answer."""
        return self.tokenizer.stops

    @property
    def formats(self) -> list[str]:
        """Always float32, the dtype of trained parameters."""
        return ["F32"]

    @property
    def fingerprint(self) -> str:
        """The hash that was written with the parameters."""
        return str(self.card["sha256"])

    def shares_ids(self, tokenizer: TextTokenizer) -> bool:
        """Returns whether the model was trained with this tokenizer."""
        return tokenizer.sha256 == self.card["tokenizer"]

    def _load(
        self, mesh: Mesh | None, rules: Rules, dtype: str | None
    ) -> tuple[Model, Params]:
        config = self.config
        if dtype:
            config = dataclasses.replace(config, dtype=dtype)  # type: ignore[arg-type]
        placement = make_placement(mesh, rules) if mesh is not None else None
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype),
            parameter_shapes(config),
        )
        like = abstract(shapes, shardings(shapes, mesh, rules))
        return build(config, placement=placement), load_params(self.path, like)


def save_model(directory: epath.Path, params: Any, card: dict[str, Any]) -> None:
    """Writes parameters, then `model.json`, which marks the model as complete.

    Args:
        directory: May hold an unfinished earlier attempt, which is replaced.
        params: The parameters.
        card: The metadata needed to use them; a hash of the parameter files is added.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(_params(directory), params, force=True)
    if jax.process_index() == 0:
        card = {**card, "sha256": _digest(_params(directory))}
        write_json(directory / _CARD, card)


def is_model(directory: epath.Path) -> bool:
    """Returns whether the directory holds a complete model."""
    return (directory / _CARD).exists()


def load_card(directory: epath.Path) -> dict[str, Any]:
    """Returns a model's `model.json`.

    Raises:
        UsageError: It is missing or was not written by kdjax.
    """
    path = directory / _CARD
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{path} cannot be read ({reason}); choose another model"
        ) from None
    if not isinstance(card, dict) or not set(card) >= _REQUIRED:
        raise UsageError(f"{path} was not written by kdjax; choose another directory")
    return card


def load_params(directory: epath.Path, like: Any) -> Any:
    """Returns the parameters, with the shapes, dtypes and shardings of `like`.

    Raises:
        UsageError: The files have changed since they were written.
    """
    if _digest(_params(directory)) != load_card(directory)["sha256"]:
        raise UsageError(f"the parameters in {directory} were changed or damaged")
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(_params(directory), like)


def _params(directory: epath.Path) -> epath.Path:
    return directory.absolute() / "params"


def _files(directory: epath.Path) -> Iterator[epath.Path]:
    for path in directory.iterdir():
        yield from _files(path) if path.is_dir() else (path,)


def _digest(directory: epath.Path) -> str:
    """Returns one hash over the names and contents of all files, read in parallel."""
    total, paths = hashlib.sha256(), sorted(_files(directory))
    with ThreadPoolExecutor() as pool:
        for path, digest in zip(paths, pool.map(_file_digest, paths), strict=True):
            total.update(path.relative_to(directory).as_posix().encode())
            total.update(digest)
    return total.hexdigest()


def _file_digest(path: epath.Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
