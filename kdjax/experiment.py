"""The stages of an experiment: data, teacher, students and twins, results."""

import dataclasses
import datetime
import functools
import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from kdjax import checkpoint
from kdjax.config import Config, ModelConfig, Rules, check_batch, check_model
from kdjax.config import from_mapping as config_from_mapping
from kdjax.data import Document, Prepared, prepare
from kdjax.errors import UsageError
from kdjax.evaluate import evaluate, forward_speed
from kdjax.models import Model, build
from kdjax.schedules import make_schedule
from kdjax.sharding import constrain_activations, make_mesh, shardings
from kdjax.step import Distillation, make_eval_step
from kdjax.train import Job, device_batches, train
from kdjax.workdir import cache_directory, check_space, write_json
from kdjax.writers import Progress, say

# Parameters and two moments in float32, for each checkpoint and one being written.
_BYTES_PER_PARAMETER = 12


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


def run(config: Config, workdir: epath.Path) -> dict[str, Any]:
    """Runs all stages that are not done yet and returns the report's numbers.

    Args:
        config: A validated config.
        workdir: The experiment's own directory.

    Raises:
        UsageError: Devices, data, teacher or disk do not fit the config.
    """
    mesh = make_mesh(config.mesh)
    for name, part in (("student", config.student), ("teacher", config.teacher)):
        count = mesh.shape["data"] * mesh.shape["fsdp"]
        check_batch(part.train, count, f"config.{name}.train")
    say(f"{jax.device_count()} {jax.devices()[0].device_kind} device(s); {workdir}")
    setting = Setting(config, workdir, _prepare(config), mesh)
    student = _build(_fill(config.student.model, setting), setting, "student")
    teacher_config, find_teacher = _plan_teacher(setting)
    teacher_model = _build(teacher_config, setting, "teacher")
    _check(student, config.student.rules, setting)
    _check(teacher_model, config.teacher.rules, setting)
    teacher = find_teacher(teacher_model)
    runs = [_teacher_run(teacher, setting)]
    for seed in range(config.seed, config.seed + config.seeds):
        for role in ("student", "twin") if config.baseline else ("student",):
            runs.append(_student_run(role, seed, student, teacher, setting))
    return _results(setting, teacher, student, runs)


def _prepare(config: Config) -> Prepared:
    """Returns the rows; the first process makes them and the others wait."""
    cache = cache_directory(config)

    def track(documents: Iterable[Document], split: str, size: int) -> Iterator[Any]:
        with Progress(f"tokenising {split}", size, unit="byte") as progress:
            for document in documents:
                yield document
                progress.update(len(document.text.encode()))

    def rows() -> Prepared:
        return prepare(config.data, config.tokenizer, cache, track=track)

    if jax.process_index() == 0:
        prepared = rows()
    _barrier("rows")
    if jax.process_index() != 0:
        prepared = rows()
    for name, size in prepared.info["splits"].items():
        say(f"data: {name}: {size['rows']:,} rows, {size['bytes'] / 1e6:.1f} MB")
    return prepared


def _fill(model: ModelConfig, setting: Setting) -> ModelConfig:
    """Returns the model with the tokenizer's vocabulary, which it must cover."""
    size = setting.prepared.tokenizer.vocab_size
    if model.vocab_size and model.vocab_size < size:
        raise UsageError(
            f"vocab_size = {model.vocab_size} is smaller than the tokenizer's {size}; "
            "set it to 0"
        )
    return dataclasses.replace(model, vocab_size=model.vocab_size or size)


def _build(model: ModelConfig, setting: Setting, name: str) -> Model:
    check_model(model, setting.config, f"config.{name}.model")
    return build(model, constrain=constrain_activations(setting.mesh))


def _check(model: Model, rules: Rules, setting: Setting) -> None:
    """Raises what is wrong with a model's placement or size, before it compiles."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    shardings(shapes, setting.mesh, rules)
    copies = setting.config.checkpoint.keep + 2
    needed = _BYTES_PER_PARAMETER * _count(shapes) * copies
    check_space(setting.workdir, needed)


def _plan_teacher(setting: Setting) -> tuple[ModelConfig, Callable[[Model], Trained]]:
    """Returns the teacher's architecture, and how to come by its parameters.

    A given directory is loaded. Otherwise a teacher that an earlier experiment trained
    with the same config on the same data is taken from the cache, or trained now.
    """
    config, tokenizer = setting.config, setting.prepared.tokenizer
    if not config.teacher.path:
        model = _fill(config.teacher.model, setting)
        return model, functools.partial(_cached_teacher, setting=setting)
    directory = epath.Path(config.teacher.path).expanduser()
    card = checkpoint.load_card(directory)
    if card["tokenizer"] != tokenizer.sha256:
        raise UsageError(
            f"the teacher in {directory} has another tokenizer "
            f"({card['tokenizer'][:12]}) than the data ({tokenizer.sha256[:12]}); set "
            f"config.tokenizer.kind = 'file' and config.tokenizer.path = "
            f"'{directory / 'tokenizer.json'}'"
        )
    model = config_from_mapping(ModelConfig, card["model"], f"{directory}/model.json")
    return model, functools.partial(_load, directory=directory, setting=setting)


def _load(model: Model, directory: epath.Path, setting: Setting) -> Trained:
    """Returns a teacher from its directory, placed by the teacher's rules."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    placed = shardings(shapes, setting.mesh, setting.config.teacher.rules)
    params = checkpoint.load_params(directory, checkpoint.abstract(shapes, placed))
    say(f"teacher: loaded from {directory}")
    return Trained(model, params, directory, checkpoint.load_card(directory))


def _cached_teacher(model: Model, setting: Setting) -> Trained:
    """Returns the teacher that this config describes, trained only once."""
    config, prepared = setting.config, setting.prepared
    splits = prepared.info["splits"]
    identity = json.dumps(
        [
            dataclasses.asdict(config.teacher),
            prepared.tokenizer.sha256,
            splits["train"]["sha256"],
            config.data.length,
        ]
    )
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    directory = cache_directory(config) / "teachers" / key
    if checkpoint.is_model(directory):
        return _load(model, directory, setting)
    job = Job(
        "teacher",
        setting.workdir / "teacher",
        model,
        config.teacher.train,
        config.teacher.rules,
        config.teacher.seed,
    )
    return _train_and_save(job, directory, setting)


def _train_and_save(job: Job, directory: epath.Path, setting: Setting) -> Trained:
    """Trains to the end and writes the model where others can find it."""
    say(f"{job.name}: {_count(job.model):,} parameters; metrics in {job.directory}")
    result = train(job, setting.config, setting.prepared, setting.mesh)
    card = {
        "model": dataclasses.asdict(job.model.config),
        "tokenizer": setting.prepared.tokenizer.sha256,
        "curve": result.curve,
        "training": result.training,
    }
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        setting.prepared.tokenizer.save(directory / "tokenizer.json")
    checkpoint.save_model(directory, result.params, card)
    _barrier(f"saved {job.name}")
    card = checkpoint.load_card(directory)
    return Trained(job.model, result.params, directory, card)


def _teacher_run(teacher: Trained, setting: Setting) -> dict[str, Any]:
    """Returns the teacher's row of the results."""
    return {
        "role": "teacher",
        "seed": setting.config.teacher.seed,
        "curve": teacher.card.get("curve", []),
        "training": teacher.card.get("training"),
        "final": _final(teacher, teacher, setting),
    }


def _student_run(
    role: str, seed: int, model: Model, teacher: Trained, setting: Setting
) -> dict[str, Any]:
    """Trains one student or twin unless it is done, and returns its results."""
    directory = setting.workdir / f"{role}-{seed}"
    path = directory / "result.json"
    if path.exists():
        say(f"{role}-{seed}: done before")
        return dict(json.loads(path.read_text()))
    config = setting.config
    job = Job(
        directory.name,
        directory,
        model,
        config.student.train,
        config.student.rules,
        seed,
    )
    if role == "student":
        steps = config.student.train.steps
        distillation = Distillation(
            teacher.model,
            config.distill.kind,
            make_schedule(config.distill.alpha, steps),
            make_schedule(config.distill.temperature, steps),
        )
        job = job._replace(distillation=distillation, teacher_params=teacher.params)
    trained = _train_and_save(job, directory / "model", setting)
    result = {
        "role": role,
        "seed": seed,
        "curve": trained.card["curve"],
        "training": trained.card["training"],
        "final": _final(trained, teacher, setting),
    }
    if jax.process_index() == 0:
        write_json(path, result)
    return result


def _final(trained: Trained, teacher: Trained, setting: Setting) -> dict[str, Any]:
    """Returns all metrics on all held-out rows of all held-out splits."""
    eval_step = make_eval_step(trained.model, teacher.model)
    size = setting.config.student.train.batch_size
    final = {}
    for split in setting.prepared.splits:
        if split != "train":
            batches = device_batches(setting.prepared, split, setting.mesh, size)
            metrics = evaluate(eval_step, trained.params, teacher.params, batches)
            bits = setting.prepared.bits_per_byte(metrics["cross_entropy"], split)
            final[split] = metrics | {"bits_per_byte": bits}
    return final


def _results(
    setting: Setting, teacher: Trained, student: Model, runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Returns what `report.write` takes."""
    config, device = setting.config, jax.devices()[0]
    batch = next(
        device_batches(
            setting.prepared, "validation", setting.mesh, config.student.train.batch_size
        )
    )
    params = jax.jit(student.init)(jax.random.key(0))
    forwards = {
        "teacher": functools.partial(_forward(teacher.model), teacher.params),
        "student": functools.partial(_forward(student), params),
    }
    speed = forward_speed(forwards, batch)
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "workdir": str(setting.workdir),
        "config": dataclasses.asdict(config),
        "environment": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "platform": device.platform,
            "device": device.device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
        },
        "data": setting.prepared.info,
        "teacher": {
            "path": str(teacher.directory),
            "sha256": teacher.card["sha256"],
            "trained_here": not config.teacher.path,
        },
        "models": {
            name: {
                "parameters": _count(model),
                "forward_tokens_per_second": speed[name],
            }
            for name, model in (("teacher", teacher.model), ("student", student))
        },
        "runs": runs,
    }


def _forward(model: Model) -> Callable[[Any, Any], jax.Array]:
    def forward(params: Any, batch: Any) -> jax.Array:
        return model.logits(params, batch["tokens"], batch["segments"])

    return jax.jit(forward)


def _count(model: Any) -> int:
    """Returns the number of parameters of a model or of a tree of shapes."""
    if isinstance(model, Model):
        model = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(model))


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
