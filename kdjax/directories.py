"""Models in directories: whose they are, whether they fit, and their parameters."""

from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from kdjax import checkpoint
from kdjax.config import Config, ModelConfig, Rules
from kdjax.data import Prepared, same_ids, tokenizer_file
from kdjax.errors import UsageError
from kdjax.models import (
    Model,
    fingerprint,
    is_pretrained,
    load_config,
    load_pretrained,
    stored_formats,
)
from kdjax.parsing import from_mapping
from kdjax.sharding import shardings
from kdjax.writers import say


class Setting(NamedTuple):
    """What every stage needs."""

    config: Config
    workdir: epath.Path
    prepared: Prepared
    mesh: Mesh


class Trained(NamedTuple):
    """A model with parameters, where it lies, and what is known of it."""

    model: Model
    params: Any
    directory: epath.Path
    card: dict[str, Any]


def shapes_and_shardings(
    model: Model, rules: Rules, setting: Setting
) -> tuple[Any, Any]:
    """Returns the parameters' shapes and shardings."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return shapes, shardings(shapes, setting.mesh, rules)


def architecture_in(name: str, setting: Setting) -> ModelConfig:
    """Returns the architecture of the model in the directory of `config.NAME.path`.

    Raises:
        UsageError: There is no model, or it speaks another tokenizer than the data.
    """
    tokenizer = setting.prepared.tokenizer
    directory = directory_of(name, setting)
    if _is_pretrained(directory):
        _, architecture = load_config(directory)
        file = tokenizer_file(directory)
        is_same = same_ids(file, tokenizer)
    else:
        card = checkpoint.load_card(directory, f"config.{name}.path")
        file = directory / "tokenizer.json"
        source = f"{directory}/model.json"
        architecture = from_mapping(ModelConfig, card["model"], source)
        is_same = card["tokenizer"] == tokenizer.sha256
    if not is_same:
        raise UsageError(
            f"the {name} in {directory} has another tokenizer than the data; set "
            f"--config.tokenizer.kind=file --config.tokenizer.path={file}"
        )
    return architecture


def directory_of(name: str, setting: Setting) -> epath.Path:
    """Returns the directory that `config.NAME.path` gives."""
    return epath.Path(getattr(setting.config, name).path).expanduser()


def _is_pretrained(directory: epath.Path) -> bool:
    """Returns whether a model's directory is one in the Hugging Face format."""
    return not checkpoint.is_model(directory) and is_pretrained(directory)


def load(
    name: str, model: Model, setting: Setting, *, dtype: str | None = None
) -> Trained:
    """Returns the model in the directory of `config.NAME.path`.

    Args:
        name: "teacher" or "student".
        model: What `architecture_in` gave, built.
        setting: What every stage needs.
        dtype: Of the parameters; None: as they are stored.

    Returns:
        It and its model, which, where the directory is in the Hugging Face format,
        computes in the precision of the parameters, whatever `model` does.
    """
    directory, rules = directory_of(name, setting), getattr(setting.config, name).rules
    if not _is_pretrained(directory):
        return load_run(name, model, rules, directory, setting, dtype)
    loaded, params = load_pretrained(
        directory, mesh=setting.mesh, rules=rules, dtype=dtype
    )
    card = {"sha256": "", "formats": stored_formats(directory)}
    if jax.process_index() == 0:  # whose report it is; to hash is to read it all
        card["sha256"] = fingerprint(directory)
    return Trained(loaded, params, directory, card)


def load_run(
    name: str,
    model: Model,
    rules: Rules,
    directory: epath.Path,
    setting: Setting,
    dtype: str | None = None,
) -> Trained:
    """Returns a model that kdjax wrote, placed by its rules."""
    shapes, placed = shapes_and_shardings(model, rules, setting)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype), shapes
    )
    params = checkpoint.load_params(directory, checkpoint.abstract(shapes, placed))
    say(f"{name}: loaded from {directory}")
    return Trained(model, params, directory, checkpoint.load_card(directory))
