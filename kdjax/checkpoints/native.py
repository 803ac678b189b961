"""kdjax's own format: `params/`, a tokenizer, and `model.json`, the model card.

The card names the directory of the parameters, `params` or, of a model that was saved
anew, `params-2` and so on: who writes the card has replaced the model in one step.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

import kdjax.checkpoints.parts as parts
from kdjax.checkpoints.handle import StoredModel
from kdjax.checkpoints.hf.matching import parameter_shapes
from kdjax.config.architecture import ModelConfig
from kdjax.config.model_rules import check_architecture
from kdjax.config.parsing import from_mapping
from kdjax.config.schema import Rules
from kdjax.core.errors import UsageError
from kdjax.core.files import (
    changed_file,
    flush,
    hash_file,
    hash_files,
    read_json,
    write_json,
)
from kdjax.models.model import Model, Params, build
from kdjax.parallel.apart import are_apart, share
from kdjax.parallel.sharding import abstract, make_placement, shardings
from kdjax.text import TextTokenizer, load_tokenizer

CARD, _TOKENIZER = "model.json", "tokenizer.json"
_PARAMS = "params"
_NAME = re.compile(rf"{_PARAMS}(-(?P<number>[1-9]\d{{0,9}}))?")
_WRITTEN = (_TOKENIZER, "tokenizer_config.json", "generation_config.json")
_KINDS = {
    "model": dict,
    "tokenizer": str,
    "end_of_text": str,
    "sha256": str,
    "params": str,
    "files": dict,
}


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
        source = str(self.path / CARD)
        config = from_mapping(ModelConfig, self.card["model"], source)
        check_architecture(config, source)
        return dataclasses.replace(config, attention="auto")

    @property
    def tokenizer_path(self) -> epath.Path:
        """The tokenizer.json that was written with the model."""
        return self.path / _TOKENIZER

    @functools.cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that the model was trained with."""
        path = self.tokenizer_path
        _check_tokenizer(self.path, self.card)
        tokenizer = load_tokenizer(path, self.card["end_of_text"])
        if not self.shares_ids(tokenizer):
            raise Damaged(f"{path} was changed or damaged; {_remedy(self.path)}")
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


class Damaged(UsageError):
    """A model that kdjax wrote is no longer what it was."""


def save_model(directory: epath.Path, params: Any, card: dict[str, Any]) -> None:
    """Writes parameters, then `model.json`, which names and completes them.

    A model that is there can be read until then, and none beside the new one stays.
    Processes that are apart all have it in the end, and so does the store.

    Args:
        directory: The model's, with the tokenizer's files; nobody else writes to it.
        params: The parameters.
        card: The metadata needed to use them; hashes of the files are added.
    """
    place, is_apart = _next(directory), are_apart(directory)
    if is_apart:
        parts.write(place, params)
    else:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(place, params, force=True)
    if jax.process_index() == 0:
        for path in _files(place):
            flush(path)
        written = [directory / name for name in _WRITTEN if (directory / name).exists()]
        card = {
            **card,
            "params": place.name,
            "sha256": _digest(place),
            "files": hash_files(written),
        }
        write_json(directory / CARD, card)
        for path in directory.glob(f"{_PARAMS}*"):
            if path.name != place.name:
                path.rmtree()
    if is_apart:
        share(directory)


def is_model(directory: epath.Path) -> bool:
    """Returns whether the directory holds a complete model."""
    return (directory / CARD).exists()


def load_card(directory: epath.Path) -> dict[str, Any]:
    """Returns a model's `model.json`.

    Raises:
        UsageError: It is missing or was not written by kdjax.
    """
    path = directory / CARD
    try:
        card = read_json(path)
    except UsageError as error:
        raise Damaged(f"{error}; {_remedy(directory)}") from None
    card = {"params": _PARAMS, "files": {}} | card  # older versions have neither
    known = all(isinstance(card.get(key), kind) for key, kind in _KINDS.items())
    if not known or not _NAME.fullmatch(card["params"]):
        raise UsageError(f"{path} was not written by kdjax; choose another directory")
    return card


def load_params(directory: epath.Path, like: Any) -> Any:
    """Returns the parameters, with the shapes, dtypes and shardings of `like`.

    Raises:
        UsageError: The files have changed since they were written.
    """
    while True:
        card = load_card(directory)
        try:
            return _restore(directory, card, like)
        except (UsageError, OSError, ValueError) as error:
            # Another model may have taken the place of this one meanwhile.
            if load_card(directory)["sha256"] != card["sha256"]:
                continue
            if isinstance(error, UsageError):
                raise
            raise Damaged(
                f"{directory / CARD} does not describe its parameters "
                f"({str(error).splitlines()[0]}); {_remedy(directory)}"
            ) from None


def discard_damaged(directory: epath.Path) -> None:
    """Deletes a model whose files have changed since they were written."""
    try:
        card = load_card(directory)
        _check(directory, card)
        _check_tokenizer(directory, card)
    except UsageError:
        directory.rmtree(missing_ok=True)


def _restore(directory: epath.Path, card: dict[str, Any], like: Any) -> Any:
    _check(directory, card)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore((directory / card["params"]).absolute(), like)


def _check(directory: epath.Path, card: dict[str, Any]) -> None:
    """Raises unless the parameters are those that the card names."""
    place = directory / card["params"]
    if not place.exists() or _digest(place.absolute()) != card["sha256"]:
        raise Damaged(
            f"the parameters in {directory} were changed or damaged; "
            f"{_remedy(directory)}"
        )


def _check_tokenizer(directory: epath.Path, card: dict[str, Any]) -> None:
    """Raises unless the tokenizer's files are those that were written."""
    if name := changed_file(directory, card["files"]):
        raise Damaged(
            f"{directory / name} was changed or damaged; {_remedy(directory)}"
        )


def _remedy(directory: epath.Path) -> str:
    return f"choose another model, or delete {directory} to have it made again"


def _next(directory: epath.Path) -> epath.Path:
    """Returns where new parameters go: to where those of a complete model are not."""
    found = directory.glob(f"{_PARAMS}*") if is_model(directory) else ()
    names = (_NAME.fullmatch(path.name) for path in found)
    last = max((int(name["number"] or 1) for name in names if name), default=0)
    return directory.absolute() / (f"{_PARAMS}-{last + 1}" if last else _PARAMS)


def _files(directory: epath.Path) -> Iterator[epath.Path]:
    for path in directory.iterdir():
        yield from _files(path) if path.is_dir() else (path,)


def _digest(directory: epath.Path) -> str:
    """Returns one hash over the names and contents of all files, read in parallel."""
    total, paths = hashlib.sha256(), sorted(_files(directory))
    with ThreadPoolExecutor() as pool:
        for path, digest in zip(paths, pool.map(hash_file, paths), strict=True):
            total.update(path.relative_to(directory).as_posix().encode())
            total.update(bytes.fromhex(digest))
    return total.hexdigest()
