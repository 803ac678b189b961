"""The experiment's models: a teacher found or trained, students and their twins."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from etils import epath

from kdjax import train as train_lib
from kdjax.architecture import check_model
from kdjax.checkpoints import native
from kdjax.config import ModelConfig, StudentConfig, TeacherConfig
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
from kdjax.held_out import make_eval_step
from kdjax.learner import Frozen, whole_model
from kdjax.losses import MAX_PADDING, LossSharding
from kdjax.models import Model, build
from kdjax.objective import Objective, distillation, hard_labels
from kdjax.online import of_ensemble, of_model
from kdjax.parsing import convert
from kdjax.results import CurvePoint, HeldOut, Run, Training, read_run
from kdjax.sharding import barrier, make_placement
from kdjax.sources import Rows, batch_shapes, device_batches
from kdjax.task import next_token_task
from kdjax.train import Job, prepare, train
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
    final: dict[str, HeldOut]


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
    return _train_once(
        "teacher",
        cache_directory(config) / "teachers" / _teacher_key(setting),
        setting.workdir / "teacher",
        model,
        (hard_labels(), {}),
        config.teacher,
        config.teacher.seed,
        setting,
    )


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


def _train_once(
    name: str,
    directory: epath.Path,
    run_directory: epath.Path,
    model: Model,
    how: tuple[Objective, Frozen],
    config: TeacherConfig | StudentConfig,
    seed: int,
    setting: Setting,
    first_params: Callable[[], Any] | None = None,
) -> Trained:
    """Returns the model in the directory, trained to the end now if there is none."""
    if native.is_model(directory):
        return load_run(name, model, config.rules, directory, setting)
    say(f"{name}: {count_parameters(model):,} parameters; metrics in {run_directory}")
    objective, frozen = how
    rows, mesh = setting.prepared.splits["train"], setting.mesh
    task = next_token_task(setting.prepared.bits_per_byte)
    held_out = make_eval_step(task, of_model(model), loss_sharding=LossSharding(mesh))
    evaluation = setting.config.evaluate

    def held_out_loss(params: Any) -> dict[str, float]:
        batches = device_batches(
            setting.prepared.splits["validation"],
            mesh,
            evaluation.batch_size,
            evaluation.rows,
        )
        nats = evaluate(held_out, params, None, batches)["cross_entropy"]
        return task.finish({"cross_entropy": nats}, "validation")

    program = prepare(
        Job(
            whole_model(model),
            objective,
            task,
            config.train,
            config.rules,
            mesh,
            frozen,
            batch_shapes(rows, config.train.batch_size, mesh),
        )
    )
    run = train_lib.Run(
        name,
        run_directory,
        seed,
        Rows(rows, config.train, seed, mesh),
        frozen,
        held_out_loss,
        evaluation.every,
        1.0,
        first_params,
    )
    result = train(program, run, setting.config.checkpoint, setting.config.log_every)
    card = {
        "model": dataclasses.asdict(model.config),
        "tokenizer": setting.prepared.tokenizer.sha256,
        "end_of_text": setting.prepared.tokenizer.end_of_text_token,
        "curve": [dataclasses.asdict(point) for point in result.curve],
        "training": dataclasses.asdict(result.training),
    }
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        setting.prepared.tokenizer.save_files(directory)
    native.save_model(directory, result.params, card)
    barrier(f"saved {name}")
    card = native.load_card(directory)
    return Trained(model, result.params, directory, card)


def teacher_results(teacher: Trained, setting: Setting) -> Run:
    """Returns the teacher's row of the results."""
    run = Run(
        role="teacher",
        seed=setting.config.teacher.seed,
        model="teacher",
        final=final_metrics(teacher, teacher, setting),
    )
    return _with_course(run, teacher)


def start_results(start: Start, setting: Setting) -> Run:
    """Returns the row of the results that all students and twins start from."""
    return Run(
        role="start",
        seed=setting.config.seed,
        model="student",
        final=start.final,
        origin=start.origin,
    )


def _with_course(run: Run, trained: Trained) -> Run:
    """Returns the run with what the model's card says of its training."""
    card, path = trained.card, f"{trained.directory}/model.json"
    return dataclasses.replace(
        run,
        curve=convert(card.get("curve", ()), tuple[CurvePoint, ...], f"{path}.curve"),
        training=convert(card.get("training"), Training | None, f"{path}.training"),
    )


def student_results(
    role: str,
    seed: int,
    model: Model,
    start: Start | None,
    teacher: Trained,
    setting: Setting,
) -> Run:
    """Trains one student or twin unless it is done, and returns its results."""
    directory = setting.workdir / f"{role}-{seed}"
    path = directory / "result.json"
    if path.exists():
        say(f"{role}-{seed}: done before")
        return read_run(path)
    config, how = setting.config, (hard_labels(), {})
    if role == "student":
        steps = config.student.train.steps
        predict = of_ensemble({"teacher": teacher.model}, {"teacher": 1.0})
        objective = distillation(predict, config.distill, steps)
        how = objective, {"teacher": teacher.params}
    trained = _train_once(
        directory.name,
        directory / "model",
        directory,
        model,
        how,
        config.student,
        seed,
        setting,
        None if start is None else start.params,
    )
    run = Run(
        role=role,
        seed=seed,
        model="student",
        final=final_metrics(trained, teacher, setting),
        teachers=("teacher",) if role == "student" else (),
    )
    run = _with_course(run, trained)
    if jax.process_index() == 0:
        write_json(path, dataclasses.asdict(run))
    return run


def final_metrics(
    trained: Trained, teacher: Trained, setting: Setting
) -> dict[str, HeldOut]:
    """Returns all metrics on the report's rows of all held-out splits."""
    eval_step = make_eval_step(
        next_token_task(setting.prepared.bits_per_byte),
        of_model(trained.model),
        of_model(teacher.model),
        loss_sharding=LossSharding(setting.mesh),
    )
    evaluation, final = setting.config.evaluate, {}
    for split in setting.prepared.splits:
        if split != "train":
            batches = device_batches(
                setting.prepared.splits[split],
                setting.mesh,
                evaluation.batch_size,
                evaluation.final_rows,
            )
            metrics = evaluate(eval_step, trained.params, teacher.params, batches)
            bits = setting.prepared.bits_per_byte(metrics["cross_entropy"], split)
            final[split] = HeldOut(**metrics, bits_per_byte=bits)
    return final
