"""The models that a config names by path: whether they fit, and their parameters."""

from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from kdjax.checkpoints import StoredModel, open_model
from kdjax.checkpoints.native import NativeModel
from kdjax.config import Config, ModelConfig, Rules
from kdjax.data import Prepared
from kdjax.errors import UsageError
from kdjax.models import Model
from kdjax.sharding import shardings
from kdjax.writers import say


class Setting(NamedTuple):
    """What every stage needs.

    Attributes:
        config: The whole config.
        workdir: The experiment's own directory.
        prepared: Its rows.
        mesh: Where models live.
        opened: By path, the models on disk that some stage has asked for.
    """

    config: Config
    workdir: epath.Path
    prepared: Prepared
    mesh: Mesh
    opened: dict[str, StoredModel]


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


def stored_model(name: str, setting: Setting) -> StoredModel:
    """Returns the model that `config.NAME.path` means, opened once an experiment.

    Raises:
        UsageError: There is none.
    """
    path = getattr(setting.config, name).path
    if path not in setting.opened:
        setting.opened[path] = open_model(path, named=f"config.{name}.path")
    return setting.opened[path]


def directory_of(name: str, setting: Setting) -> epath.Path:
    """Returns where the model lies that `config.NAME.path` means."""
    return stored_model(name, setting).path


def architecture_in(name: str, setting: Setting) -> ModelConfig:
    """Returns the architecture of the model that `config.NAME.path` means.

    Raises:
        UsageError: There is no model, or it speaks another tokenizer than the data.
    """
    stored = stored_model(name, setting)
    if not stored.shares_ids(setting.prepared.tokenizer):
        raise UsageError(
            f"the {name} in {stored.path} has another tokenizer than the data; set "
            f"--config.tokenizer.kind=file "
            f"--config.tokenizer.path={stored.tokenizer_path}"
        )
    return stored.config


def load(name: str, setting: Setting, *, dtype: str | None = None) -> Trained:
    """Returns the model that `config.NAME.path` means, placed by its rules.

    Args:
        name: "teacher" or "student".
        setting: What every stage needs.
        dtype: Of the parameters; None: as they are stored.
    """
    stored, rules = stored_model(name, setting), getattr(setting.config, name).rules
    model, params = stored.load(setting.mesh, rules, dtype)
    say(f"{name}: loaded from {stored.path}")
    card = {**stored.card, "formats": stored.formats, "sha256": ""}
    if jax.process_index() == 0:  # whose report it is; to hash is to read it all
        card["sha256"] = stored.fingerprint
    return Trained(model, params, stored.path, card)


def load_run(
    name: str, model: Model, rules: Rules, directory: epath.Path, setting: Setting
) -> Trained:
    """Returns a model that this experiment, or one that shares its cache, trained."""
    stored = NativeModel(directory)
    _, params = stored.load(setting.mesh, rules)
    say(f"{name}: loaded from {directory}")
    return Trained(model, params, directory, stored.card)
