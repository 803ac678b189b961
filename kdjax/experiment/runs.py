"""Training runs: each role's recipe, trained once per seed and kept on disk."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from etils import epath

from kdjax.checkpoints import native
from kdjax.config.parsing import convert
from kdjax.config.schema import Config, Rules, TrainConfig
from kdjax.core.logging import say
from kdjax.experiment.evaluator import Evaluator
from kdjax.experiment.setting import Setting, Trained, count_parameters
from kdjax.models import Model
from kdjax.models.flops import training_flops
from kdjax.parallel.sharding import barrier
from kdjax.results.measured import (
    EQUAL_COMPUTE,
    CurvePoint,
    Plan,
    Training,
    run_name,
    trained_steps,
)
from kdjax.train.learner import Frozen, whole_model
from kdjax.train.loop import Job, Program, Run, prepare, train
from kdjax.train.newest import latest_step
from kdjax.train.objective import Objective
from kdjax.train.sources import Rows, batch_shapes


class Role(NamedTuple):
    """What a student is for.

    Attributes:
        name: The name in the report.
        teachers: Whose soft targets it learns from; if empty, labels alone.
        work: Its number of steps, as a multiple of the student's.
    """

    name: str
    teachers: tuple[str, ...]
    work: float = 1.0

    def steps(self, student: int) -> int:
        """Returns its number of steps if the student's is this."""
        return round(self.work * student)

    def run(self, seed: int) -> str:
        """Returns the name of one seed's run, and of its directory."""
        return run_name(self.name, seed)


def student_roles(config: Config, work: float) -> list[Role]:
    """Returns the roles of an experiment's students, in the order of the report.

    Args:
        config: The experiment's config.
        work: The FLOPs of a student's step, as a multiple of the twin's.
    """
    names = tuple(config.all_teachers)
    roles = [Role("student", names)]
    if config.member_students:
        roles += [Role(f"student of {name}", (name,)) for name in names]
    if config.baseline:
        roles.append(Role("twin", ()))
    if config.baseline == "both":
        roles.append(Role(EQUAL_COMPUTE, (), work))
    return roles


class Recipe(NamedTuple):
    """How a model is trained, whatever the seed.

    Attributes:
        model: The model to train.
        objective: From the number of steps to what it minimises.
        teachers: The models that run in the step, to count its FLOPs.
        frozen: Their parameters.
        train: Steps, batch size and optimiser.
        rules: Sharding rules that take precedence over the default ones.
        plans: The numbers of steps that were planned one after the other; the last
            one is that of `train`.
    """

    model: Model
    objective: Callable[[int], Objective]
    teachers: tuple[Model, ...]
    frozen: Frozen
    train: TrainConfig
    rules: Rules
    plans: tuple[int, ...]


class Trainer:
    """Trains one recipe for any number of seeds, compiling each plan once."""

    def __init__(self, recipe: Recipe, evaluator: Evaluator, setting: Setting) -> None:
        """Compiles nothing yet."""
        self._recipe, self._evaluator, self._setting = recipe, evaluator, setting
        self._rows = setting.prepared.splits["train"]
        self._programs: dict[int, Program] = {}

    def __call__(
        self,
        name: str,
        seed: int,
        directory: epath.Path,
        metrics: epath.Path,
        first_params: Callable[[], Any] | None = None,
    ) -> Trained:
        """Returns the model in the directory, trained as long as the recipe says.

        A model that was trained for fewer steps is trained on from its checkpoint,
        by one plan after the other.

        Args:
            name: The run's name in messages.
            seed: The seed of the initialisation and of the order of the data.
            directory: Where the model is kept.
            metrics: Where checkpoints and metrics go.
            first_params: Returns the initial parameters; None: random ones.
        """
        recipe, setting = self._recipe, self._setting
        trained = 0
        if native.is_model(directory):
            curve, _ = _record(native.NativeModel(directory))
            trained = trained_steps(curve)
        *earlier, last = recipe.plans
        if trained >= last:
            return load_trained(name, directory, recipe.model, recipe.rules, setting)
        size = count_parameters(recipe.model)
        say(f"{name}: {size:,} parameters; metrics in {metrics}")
        # It may be an earlier step than the model's, if later checkpoints are damaged.
        begun = (latest_step(metrics) if earlier or trained else 0) or trained
        for steps in (*(plan for plan in earlier if plan > begun), last):
            run = Run(
                name=name,
                directory=metrics,
                seed=seed,
                source=Rows(self._rows, recipe.train, seed, setting.mesh),
                frozen=recipe.frozen,
                evaluate=self._evaluator.along_the_run,
                evaluate_every=setting.config.evaluate.every,
                flops=self._flops(),
                first_params=first_params,
                extends=max(
                    [min(trained, begun), *(plan for plan in earlier if plan < steps)]
                ),
            )
            if steps not in self._programs:
                say(f"{name}: compiling ...")
                with setting.clock("compiling"):
                    self._programs[steps] = self._compile(steps)
            config = setting.config
            with setting.clock("training steps"):
                result = train(
                    self._programs[steps],
                    run,
                    config.checkpoint,
                    config.log_every,
                    config.wandb,
                    config.profile,
                )
        training = dataclasses.replace(
            result.training,
            plans=_plans(recipe.plans),
            devices=setting.mesh.size,
        )
        tokenizer = setting.prepared.tokenizer
        if jax.process_index() == 0:
            directory.mkdir(parents=True, exist_ok=True)
            tokenizer.save_files(directory)
        card = {
            "model": dataclasses.asdict(recipe.model.config),
            "tokenizer": tokenizer.sha256,
            "end_of_text": tokenizer.end_of_text_token,
            "curve": [dataclasses.asdict(point) for point in result.curve],
            "training": dataclasses.asdict(training),
        }
        native.save_model(directory, result.params, card)
        barrier(f"saved {name}")
        return _trained(recipe.model, result.params, native.NativeModel(directory))

    def _compile(self, steps: int) -> Program:
        recipe, setting = self._recipe, self._setting
        return prepare(
            Job(
                learner=whole_model(recipe.model),
                objective=recipe.objective(steps),
                task=setting.task,
                config=dataclasses.replace(recipe.train, steps=steps),
                rules=recipe.rules,
                mesh=setting.mesh,
                frozen=recipe.frozen,
                batch=batch_shapes(self._rows, recipe.train.batch_size, setting.mesh),
            )
        )

    def _flops(self) -> float:
        """Returns the FLOPs of a step."""
        recipe, length = self._recipe, self._setting.config.data.length
        teachers = (teacher.config for teacher in recipe.teachers)
        token = training_flops(recipe.model.config, teachers, length)
        return token * recipe.train.batch_size * length


def _plans(steps: tuple[int, ...]) -> tuple[Plan, ...]:
    return tuple(map(Plan, (0, *steps), steps))


def load_trained(
    name: str, directory: epath.Path, model: Model, rules: Rules, setting: Setting
) -> Trained:
    """Returns a model trained by this experiment or by one that shares its cache."""
    stored = native.NativeModel(directory)
    _, params = stored.load(setting.mesh, rules)
    say(f"{name}: loaded from {directory}")
    return _trained(model, params, stored)


def _trained(model: Model, params: Any, stored: native.NativeModel) -> Trained:
    curve, training = _record(stored)
    return Trained(
        model,
        params,
        stored.path,
        stored.fingerprint,
        curve=curve,
        training=training,
    )


def _record(
    stored: native.NativeModel,
) -> tuple[tuple[CurvePoint, ...], Training | None]:
    """Returns the record of a model's training in its card."""
    card, path = stored.card, f"{stored.path}/model.json"
    return (
        convert(card.get("curve", ()), tuple[CurvePoint, ...], f"{path}.curve"),
        convert(card.get("training"), Training | None, f"{path}.training"),
    )
