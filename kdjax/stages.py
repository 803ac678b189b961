"""The experiment's models: a teacher found or trained, students and their twins."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from etils import epath

from kdjax.architecture import check_model
from kdjax.checkpoints import native
from kdjax.config import ModelConfig
from kdjax.directories import (
    Setting,
    Trained,
    architecture_in,
    load,
    load_run,
    shapes_and_shardings,
)
from kdjax.errors import UsageError
from kdjax.evaluate import evaluate
from kdjax.losses import MAX_PADDING, LossSharding
from kdjax.models import Model, build
from kdjax.sharding import barrier, make_placement
from kdjax.step import make_distillation, make_eval_step
from kdjax.train import Job, device_batches, train
from kdjax.workdir import cache_directory, check_space, write_json
from kdjax.writers import say

# Parameters and two moments in float32, for each checkpoint and one being written.
_BYTES_PER_PARAMETER = 12


class Start(NamedTuple):
    """Where a student and its twin start, if they know something already.

    Attributes:
        params: Gives the parameters, anew every time.
        origin: Where they are from, in words.
        final: All held-out metrics before any training.
    """

    params: Callable[[], Any]
    origin: str
    final: dict[str, Any]


def make_model(model: ModelConfig, name: str, setting: Setting) -> Model:
    """Returns the model that the config calls `name`, checked before it compiles.

    Raises:
        UsageError: It does not fit the tokenizer, the rows, the mesh or the disk.
    """
    config, size = setting.config, setting.prepared.tokenizer.vocab_size
    path = f"config.{name}.model"
    rows = setting.prepared.info["splits"].values()
    largest = max(split["largest_id"] for split in rows)
    # A tokenizer may know tokens that no row holds and the model was made without.
    if (model.vocab_size or size) <= largest:
        raise UsageError(
            f"{path}.vocab_size = {model.vocab_size}, and the rows hold ids up to "
            f"{largest}; set it to 0, or take the tokenizer that the {name} knows"
        )
    model = dataclasses.replace(model, vocab_size=model.vocab_size or size)
    check_model(model, config, path)
    if model.attention == "cudnn" and jax.default_backend() != "gpu":
        raise UsageError(f"{path}.attention = 'cudnn' needs a GPU; choose 'auto'")
    rules = getattr(config, name).rules
    built = build(model, placement=make_placement(setting.mesh, rules))
    shapes_and_shardings(built, rules, setting)
    if name == "student" or not config.teacher.path:
        copies = config.checkpoint.keep + 2
        needed = _BYTES_PER_PARAMETER * count_parameters(built) * copies
        check_space(setting.workdir, needed)
    return built


def check_vocabularies(student: Model, teacher: Model) -> None:
    """Raises unless the loss can compare two models' distributions.

    Raises:
        UsageError: They know different numbers of ids, by more than padding.
    """
    mine, theirs = student.config.vocab_size, teacher.config.vocab_size
    if abs(mine - theirs) > MAX_PADDING:
        raise UsageError(
            f"the student knows {mine} ids, the teacher {theirs}; they may differ by "
            f"{MAX_PADDING}; set config.student.model.vocab_size = {theirs}"
        )


def count_parameters(model: Model) -> int:
    """Returns how many numbers a model has learnt, vocabulary padding included."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def teacher_architecture(setting: Setting) -> ModelConfig:
    """Returns the teacher's architecture, from its directory where one is given.

    Raises:
        UsageError: There is no model, or it speaks another tokenizer than the data.
    """
    teacher = setting.config.teacher
    if not teacher.path:
        return teacher.model
    found = architecture_in("teacher", setting)
    return dataclasses.replace(found, dtype=teacher.dtype or found.dtype)


def obtain_teacher(model: Model, setting: Setting) -> Trained:
    """Returns the teacher with its parameters.

    It is loaded from the directory that the config gives, or from the cache where an
    earlier experiment trained the same one on the same data, or else trained now.
    """
    config = setting.config
    if config.teacher.path:
        return load("teacher", setting, dtype=config.teacher.dtype or None)
    job = Job(
        "teacher",
        setting.workdir / "teacher",
        model,
        config.teacher.train,
        config.teacher.rules,
        config.teacher.seed,
    )
    cache = cache_directory(config) / "teachers"
    return _train_once(job, cache / _teacher_key(setting), setting)


def _teacher_key(setting: Setting) -> str:
    """Returns a hash of all that decides what a trained teacher becomes."""
    config, prepared = setting.config, setting.prepared
    teacher = dataclasses.asdict(config.teacher)
    del teacher["train"]["chunk_size"]  # what it changes is rounding
    del teacher["dtype"]  # of one that is loaded
    identity = [
        teacher,
        prepared.tokenizer.sha256,
        prepared.info["splits"]["train"]["sha256"],
        config.data.length,
    ]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def _train_once(job: Job, directory: epath.Path, setting: Setting) -> Trained:
    """Returns the model in the directory, trained to the end now if there is none."""
    if native.is_model(directory):
        return load_run(job.name, job.model, job.rules, directory, setting)
    say(
        f"{job.name}: {count_parameters(job.model):,} parameters; "
        f"metrics in {job.directory}"
    )
    result = train(job, setting.config, setting.prepared, setting.mesh)
    card = {
        "model": dataclasses.asdict(job.model.config),
        "tokenizer": setting.prepared.tokenizer.sha256,
        "end_of_text": setting.prepared.tokenizer.end_of_text_token,
        "curve": result.curve,
        "training": result.training,
    }
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        setting.prepared.tokenizer.save_files(directory)
    native.save_model(directory, result.params, card)
    barrier(f"saved {job.name}")
    card = native.load_card(directory)
    return Trained(job.model, result.params, directory, card)


def teacher_results(teacher: Trained, setting: Setting) -> dict[str, Any]:
    """Returns the teacher's row of the results."""
    return {
        "role": "teacher",
        "seed": setting.config.teacher.seed,
        "curve": teacher.card.get("curve", []),
        "training": teacher.card.get("training"),
        "final": final_metrics(teacher, teacher, setting),
    }


def start_results(start: Start, setting: Setting) -> dict[str, Any]:
    """Returns the row of the results that all students and twins start from."""
    return {
        "role": "start",
        "origin": start.origin,
        "seed": setting.config.seed,
        "curve": [],
        "training": None,
        "final": start.final,
    }


def student_results(
    role: str,
    seed: int,
    model: Model,
    start: Start | None,
    teacher: Trained,
    setting: Setting,
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
        first_params=None if start is None else start.params,
    )
    if role == "student":
        steps = config.student.train.steps
        distillation = make_distillation(teacher.model, config.distill, steps)
        job = job._replace(distillation=distillation, teacher_params=teacher.params)
    trained = _train_once(job, directory / "model", setting)
    result = {
        "role": role,
        "seed": seed,
        "curve": trained.card["curve"],
        "training": trained.card["training"],
        "final": final_metrics(trained, teacher, setting),
    }
    if jax.process_index() == 0:
        write_json(path, result)
    return result


def final_metrics(
    trained: Trained, teacher: Trained, setting: Setting
) -> dict[str, Any]:
    """Returns all metrics on the report's rows of all held-out splits."""
    eval_step = make_eval_step(
        trained.model, teacher.model, loss_sharding=LossSharding(setting.mesh)
    )
    evaluation, final = setting.config.evaluate, {}
    for split in setting.prepared.splits:
        if split != "train":
            batches = device_batches(
                setting.prepared,
                split,
                setting.mesh,
                evaluation.batch_size,
                evaluation.final_rows,
            )
            metrics = evaluate(eval_step, trained.params, teacher.params, batches)
            bits = setting.prepared.bits_per_byte(metrics["cross_entropy"], split)
            final[split] = metrics | {"bits_per_byte": bits}
    return final
