"""What every stage of an experiment needs, and the models that its config names."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from kdjax.checkpoints import StoredModel, hub, open_model
from kdjax.config.architecture import ModelConfig
from kdjax.config.model_rules import check_model
from kdjax.config.schema import Config, Rules, TokenizerConfig
from kdjax.core.clock import Clock
from kdjax.core.errors import UsageError
from kdjax.core.logging import say, size_of
from kdjax.data import Prepared
from kdjax.evaluation.evaluators import Evaluator as TaskEvaluator
from kdjax.evaluation.held_out import OwnMetrics
from kdjax.experiment.paths import named_models
from kdjax.experiment.workdir import check_space
from kdjax.losses import MAX_PADDING
from kdjax.models import Model, build
from kdjax.models.flops import forward_flops
from kdjax.models.transformer.kernels import choose
from kdjax.parallel.memory import total_memory
from kdjax.parallel.sharding import barrier, make_placement, shardings
from kdjax.results.measured import CurvePoint, Training
from kdjax.train.task import Task

# Parameters and two moments in float32, per checkpoint.
_BYTES_PER_PARAMETER = 12
_PLATFORMS = {"splash": "tpu", "cudnn": "gpu"}  # of kernels
# The least that a parameter takes of the devices' memory, in bytes: in float32 with its
# gradient, and in bfloat16.
_TRAINED, _LOADED = 8, 2


class Setting(NamedTuple):
    """What every stage needs.

    Attributes:
        config: The whole config.
        workdir: The experiment's own directory.
        prepared: The rows.
        mesh: The devices.
        task: What models are trained for and judged on.
        opened: The models on disk opened so far, by path.
        clock: Accounts for CPU seconds.
        tasks: What is measured of every model beside its held-out text.
        own_metrics: The user's own metrics of a token.
        task_hashes: Those of the tasks' files, by path.
        shared: Where runs are that other experiments need as well; None: nowhere.
    """

    config: Config
    workdir: epath.Path
    prepared: Prepared
    mesh: Mesh
    task: Task
    opened: dict[str, StoredModel]
    clock: Clock
    tasks: tuple[TaskEvaluator, ...] = ()
    own_metrics: OwnMetrics = ()
    task_hashes: Mapping[str, str] = MappingProxyType({})
    shared: epath.Path | None = None


class Trained(NamedTuple):
    """A model with its parameters, location and training record.

    Attributes:
        model: The model.
        params: Its parameters.
        directory: Where it is stored.
        sha256: The hash of its parameters; empty on all processes but the first.
        formats: The storage formats of a loaded model's weights.
        curve: Its held-out loss during training; empty if it was loaded.
        training: How training went; None if it was loaded.
    """

    model: Model
    params: Any
    directory: epath.Path
    sha256: str
    formats: tuple[str, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    training: Training | None = None


def fetch_named(config: Config, opened: dict[str, StoredModel]) -> TokenizerConfig:
    """Opens the models that the config names, and downloads those on a hub.

    The first process does so while the others wait; processes that do not share its
    disk then download their own copies. It comes before the data, which take longer.

    Args:
        config: The config.
        opened: Filled with the models by path, their headers read.

    Returns:
        The config's tokenizer, with the path of its file.

    Raises:
        UsageError: There is no such model, or it cannot be downloaded.
    """

    def fetch() -> TokenizerConfig:
        for key, path in named_models(config).items():
            if path not in opened:
                opened[path] = open_model(path, named=key)
                _ = opened[path].config  # raises if the header is damaged
        tokenizer = config.tokenizer
        if tokenizer.kind != "file" or not hub.is_name(tokenizer.path):
            return tokenizer
        found = hub.find_tokenizer(tokenizer.path, named="config.tokenizer.path")
        return dataclasses.replace(tokenizer, path=str(found))

    if jax.process_index() == 0:
        tokenizer = fetch()
    barrier("downloads")
    return tokenizer if jax.process_index() == 0 else fetch()


def open_named(path: str, key: str, setting: Setting) -> StoredModel:
    """Returns the model on disk that a config key names, opened once per path.

    Raises:
        UsageError: There is no model, or its tokenizer is not that of the data.
    """
    if path not in setting.opened:
        setting.opened[path] = open_model(path, named=f"{key}.path")
    stored = setting.opened[path]
    if not stored.shares_ids(setting.prepared.tokenizer):
        tokenizer = path if hub.is_name(path) else stored.tokenizer_path
        raise UsageError(
            f"the model in {stored.path} ({key}.path) has another tokenizer than the "
            "data; set --config.tokenizer.kind=file "
            f"--config.tokenizer.path={tokenizer}"
        )
    return stored


def make_model(
    model: ModelConfig, key: str, rules: Rules, setting: Setting, *, is_trained: bool
) -> Model:
    """Returns a model of the config, checked before anything compiles.

    Args:
        model: Its architecture.
        key: Its key in the config, for messages.
        rules: Sharding rules that take precedence over the default ones.
        setting: The experiment's setting.
        is_trained: Whether it is trained here and thus needs space for checkpoints.

    Raises:
        UsageError: It does not fit the tokenizer, the rows, the mesh or the disk.
    """
    config, size = setting.config, setting.prepared.tokenizer.vocab_size
    path = f"{key}.model"
    rows = setting.prepared.info["splits"].values()
    largest = max(split["largest_id"] for split in rows)
    # The tokenizer may have more tokens than the model, if no row contains them.
    if (model.vocab_size or size) <= largest:
        raise UsageError(
            f"{path}.vocab_size = {model.vocab_size}, and the rows hold ids up to "
            f"{largest}; set it to 0, or use the model's own tokenizer"
        )
    model = dataclasses.replace(model, vocab_size=model.vocab_size or size)
    check_model(model, config, path)
    check_memory(model, path, setting.mesh, is_trained=is_trained)
    placement = make_placement(setting.mesh, rules)
    built = build(model, placement=placement)
    if placement.devices is not None and placement.devices.platform != "cpu":
        shape = placement.devices.rows(), config.data.length
        say(f"{key}: attention by {choose(model, placement, shape)}")
    parameter_shardings(built, rules, setting)
    if is_trained:
        copies = config.checkpoint.keep + 2
        needed = _BYTES_PER_PARAMETER * count_parameters(built) * copies
        check_space(setting.workdir, needed)
    return built


def check_kernels(config: Config) -> None:
    """Raises if the config names a kernel of another platform.

    Raises:
        UsageError: It does.
    """
    here = jax.default_backend()
    models = {f"the teacher {n!r}": t.model for n, t in config.all_teachers.items()}
    for name, model in {"the student": config.student.model, **models}.items():
        needed = _PLATFORMS.get(model.attention, here)
        if needed != here:
            raise UsageError(
                f"{name} has model.attention = {model.attention!r}, which needs a "
                f"{needed.upper()}; choose 'auto'"
            )


def check_memory(
    model: ModelConfig, path: str, mesh: Mesh, *, is_trained: bool
) -> None:
    """Raises if all devices together cannot even hold the parameters.

    Args:
        model: The architecture.
        path: Its key in the config, for messages.
        mesh: The devices, along `data` of which parameters are repeated.
        is_trained: Whether gradients are as large again.

    Raises:
        UsageError: They cannot.
    """
    parameters = int(forward_flops(model, 0) / 2)  # those of its matrices
    each = _TRAINED if is_trained else _LOADED
    needed, total = parameters * each * mesh.shape["data"], total_memory()
    if total is not None and needed > total:
        raise UsageError(
            f"{path} has {parameters:,} parameters, which need {size_of(needed)} of "
            f"memory on this mesh; {size_of(total)} are there: make it smaller, or "
            "raise config.mesh.fsdp"
        )


def parameter_shardings(model: Model, rules: Rules, setting: Setting) -> Any:
    """Returns the shardings of the model's parameters."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return shardings(shapes, setting.mesh, rules)


def check_vocabularies(student: Model, teacher: Model, name: str) -> None:
    """Raises unless the loss can compare two models' distributions.

    Raises:
        UsageError: Their vocabulary sizes differ by more than padding.
    """
    mine, theirs = student.config.vocab_size, teacher.config.vocab_size
    if abs(mine - theirs) > MAX_PADDING:
        raise UsageError(
            f"the student knows {mine} ids, the {name} {theirs}; they may differ by "
            f"{MAX_PADDING}; set config.student.model.vocab_size = {theirs}"
        )


def count_parameters(model: Model) -> int:
    """Returns how many parameters a model has, vocabulary padding included."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
