"""The experiment's teachers, loaded or trained: a single model or an ensemble."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from kdjax.checkpoints import StoredModel, native
from kdjax.config.architecture import ModelConfig
from kdjax.config.devices import teacher_dtype
from kdjax.config.schema import OptimizerConfig, TeacherConfig
from kdjax.core.logging import say
from kdjax.core.mirrors import drop, publish, pull
from kdjax.evaluation.likelihood import Subject
from kdjax.experiment.evaluator import Evaluator
from kdjax.experiment.locking import lock_on, one_at_a_time
from kdjax.experiment.runs import Recipe, Trainer
from kdjax.experiment.setting import Setting, Trained, make_model, open_named
from kdjax.experiment.workdir import cache_directory
from kdjax.losses import MAX_PADDING
from kdjax.models import Model
from kdjax.parallel.apart import are_apart, follow
from kdjax.results.measured import teacher_role
from kdjax.targets.online import Predict, of_ensemble
from kdjax.train.objective import hard_labels

# Keys that cached teachers of older versions were identified without.
_ADDED = (
    "warmup_steps",
    "decay_fraction",
    "epsilon",
    "beta2_decay",
    "momentum",
    "nesterov",
    "mu_dtype",
)


class Candidate(NamedTuple):
    """A teacher that has no parameters yet.

    Attributes:
        name: Its name in the config.
        config: Its part of the config.
        model: Its model.
        stored: The model on disk to load; None: it is trained.
    """

    name: str
    config: TeacherConfig
    model: Model
    stored: StoredModel | None


class Teachers(NamedTuple):
    """All teachers of an experiment and their weights, by name."""

    trained: Mapping[str, Trained]
    weights: Mapping[str, float]

    @property
    def first(self) -> Trained:
        """The teacher that students are pruned from."""
        return next(iter(self.trained.values()))

    def predict(self, names: Sequence[str] = ()) -> Predict:
        """Returns what computes the named teachers' soft targets; none: of all."""
        models = {name: self.trained[name].model for name in names or self.trained}
        return of_ensemble(models, self.weights)

    def frozen(self, names: Sequence[str]) -> dict[str, Any]:
        """Returns the parameters of the named teachers."""
        return {name: self.trained[name].params for name in names}


def open_teachers(setting: Setting) -> dict[str, StoredModel | None]:
    """Returns the teachers on disk by name, with None for those to be trained.

    Raises:
        UsageError: There is no model, or its tokenizer is not that of the data.
    """
    config = setting.config
    return {
        name: open_named(teacher.path, config.teacher_path(name), setting)
        if teacher.path
        else None
        for name, teacher in config.all_teachers.items()
    }


def teacher_architecture(
    config: TeacherConfig, stored: StoredModel | None, setting: Setting
) -> ModelConfig:
    """Returns a teacher's architecture, from the model on disk if there is one."""
    if stored is None:
        return config.model
    found = stored.config
    dtype: Any = _dtype(config, setting) or found.dtype
    return dataclasses.replace(found, dtype=dtype)


def _dtype(config: TeacherConfig, setting: Setting) -> str:
    return teacher_dtype(config, setting.mesh.devices.flat[0].platform)


def plan_teachers(
    stored: Mapping[str, StoredModel | None], setting: Setting
) -> list[Candidate]:
    """Returns the teachers, checked before anything compiles.

    Raises:
        UsageError: One does not fit the tokenizer, the rows, the mesh or the disk.
    """
    candidates = []
    for name, teacher in setting.config.all_teachers.items():
        model = make_model(
            teacher_architecture(teacher, stored[name], setting),
            setting.config.teacher_path(name),
            teacher.rules,
            setting,
            is_trained=stored[name] is None,
        )
        if stored[name] is None:
            _note_unused_ids(model, setting.config.teacher_path(name), setting)
        candidates.append(Candidate(name, teacher, model, stored[name]))
    return candidates


def _note_unused_ids(model: Model, key: str, setting: Setting) -> None:
    """Says so if a new teacher has many more ids than the tokenizer."""
    ids, known = model.config.vocab_size, setting.prepared.tokenizer.vocab_size
    if ids > known + MAX_PADDING:
        say(
            f"note: {key}.model.vocab_size = {ids:,}, but the tokenizer has only "
            f"{known:,} ids; 0 gives the tokenizer's (set the student's to 0 as well)"
        )


def obtain_teachers(candidates: Sequence[Candidate], setting: Setting) -> Teachers:
    """Returns the teachers with their parameters.

    Each is loaded from the path in the config, or else from the cache if an earlier
    experiment trained the same teacher on the same data, or else trained now.
    """
    models = {c.name: c.model for c in candidates}
    weights = {c.name: c.config.weight for c in candidates}
    compared_with = of_ensemble(models, weights)
    trained = {c.name: _obtain(c, compared_with, setting) for c in candidates}
    return Teachers(trained, weights)


def _obtain(candidate: Candidate, teacher: Predict, setting: Setting) -> Trained:
    config, model = candidate.config, candidate.model
    name = teacher_role(candidate.name).replace(" ", "-")
    if candidate.stored is not None:
        return _load(name, candidate.stored, config, setting)
    trainer = Trainer(
        Recipe(
            model,
            lambda steps: hard_labels(),
            (),
            {},
            config.train,
            config.rules,
            (config.train.steps,),
        ),
        Evaluator(Subject.of(model), teacher, setting),
        setting,
    )
    key, cache = _key(config, setting), cache_directory(setting.config)
    directory, metrics = cache / "teachers" / key, setting.workdir / name
    if setting.shared is not None:  # so that whoever comes next can resume it
        metrics = setting.shared / f"{name}-{key}"
    lock, is_needed = lock_on(cache, "teacher", key), setting.shared is not None

    def obtain() -> Trained:
        is_first = jax.process_index() == 0
        if are_apart(directory) and is_first and native.is_model(directory):
            native.discard_damaged(directory)  # or only this process would notice
        if not native.is_model(directory):
            pull(directory)
        is_made = native.is_model(directory)
        with one_at_a_time(lock, name, is_made=is_made, is_needed=is_needed):
            follow(directory, native.CARD)
            trained = trainer(name, config.seed, directory, metrics)
        if jax.process_index() == 0:
            publish(directory, native.CARD)
        return trained

    try:
        return obtain()
    except native.Damaged as error:
        say(f"{name}: trained again, for the cache is damaged: {error}")
    with one_at_a_time(lock, name, is_needed=is_needed):
        if jax.process_index() == 0:
            native.discard_damaged(directory)
            if not native.is_model(directory):
                drop(directory)
    return obtain()


def _load(
    name: str, stored: StoredModel, config: TeacherConfig, setting: Setting
) -> Trained:
    dtype = _dtype(config, setting) or None
    model, params = stored.load(setting.mesh, config.rules, dtype)
    say(f"{name}: loaded from {stored.path}")
    # Only the first process reports it, and hashing reads the whole file.
    sha256 = stored.fingerprint if jax.process_index() == 0 else ""
    return Trained(model, params, stored.path, sha256, tuple(stored.formats))


def _key(config: TeacherConfig, setting: Setting) -> str:
    """Returns a hash of everything that determines a trained teacher."""
    prepared = setting.prepared
    teacher = dataclasses.asdict(config)
    for name in ("chunk_size", "rows_per_device"):  # they change rounding only
        del teacher["train"][name]
    if teacher["model"]["remat"] == "auto":  # which was added later; the same holds
        teacher["model"]["remat"] = "none"
    del teacher["dtype"]  # applies to loaded teachers only
    del teacher["weight"]  # applies to the ensemble only
    optimizer = teacher["train"]["optimizer"]
    for name in _ADDED:
        if optimizer[name] == getattr(OptimizerConfig, name):
            del optimizer[name]
    guard = teacher["train"].pop("spike_guard")
    guarded = [guard, setting.config.checkpoint.every] if guard["deviations"] else []
    identity = [
        teacher,
        prepared.tokenizer.sha256,
        prepared.info["splits"]["train"]["sha256"],
        setting.config.data.length,
        # Only where the text spells control tokens; see `prepare`.
        *filter(None, [prepared.info.get("special_tokens")]),
        *guarded,
    ]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
