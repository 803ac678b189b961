"""Twins that several experiments need: each is trained once, by who comes first."""

import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from kdjax.checkpoints import native
from kdjax.experiment.locking import one_at_a_time
from kdjax.experiment.plans import read_plans
from kdjax.experiment.runs import Role, Trainer
from kdjax.experiment.setting import Setting, Trained
from kdjax.experiment.students import Start
from kdjax.experiment.teachers import Teachers
from kdjax.parallel.sharding import barrier

_LINKED = ("model", "metrics.jsonl", "tensorboard")


class SharedTwin:
    """One seed's twin, which all experiments with the same `shared` directory share.

    A twin learns from no teacher, so that no key of the objective changes it. Its run
    is in a directory named by all that does; the experiment's own links to it, and has
    the metrics, which compare it with this experiment's teachers.

    A run whose steps are raised is another run, which begins as a copy of the first: an
    experiment that is not raised still needs that.
    """

    def __init__(
        self, role: Role, seed: int, start: Start, teachers: Teachers, setting: Setting
    ) -> None:
        """Makes nothing yet.

        Args:
            role: Which twin it is.
            seed: Its seed.
            start: Where it starts.
            teachers: Whose first one it may be pruned from.
            setting: The experiment's setting, with a `shared` directory.
        """
        assert setting.shared is not None
        self._role, self._seed, self._shared = role, seed, setting.shared
        self._own = setting.workdir / role.run(seed)
        self._identity = _identity(seed, start, teachers, setting)
        plans = read_plans(setting.workdir, setting.config.student.train.steps)
        self._plans = tuple(map(role.steps, plans))

    @property
    def directory(self) -> epath.Path:
        """The directory of its run."""
        return self._directory(self._plans)

    @property
    def lock(self) -> epath.Path:
        """The file of the lock on it."""
        return self._shared / "locks" / f"{self.directory.name}.lock"

    def begin(self) -> None:
        """Copies the run that this one extends, if there is one; the lock is held."""
        if self.directory.exists():  # so that the lock may not be held
            return
        # Who made these copies held the lock, and is dead.
        for copy in self._shared.glob(f"{self.directory.name}.*.tmp"):
            copy.rmtree()
        earlier = self._directory(self._plans[:-1])
        if not native.is_model(earlier / "model"):
            return
        copy = self._shared / f"{self.directory.name}.{uuid.uuid4().hex[:8]}.tmp"
        shutil.copytree(earlier, copy)
        copy.rename(self.directory)

    def link(self) -> None:
        """Makes the run appear in the experiment's own directory."""
        self._own.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(self.directory, self._own)
        for name in _LINKED:
            temporary = self._own / f"{name}.{uuid.uuid4().hex[:8]}.tmp"
            os.symlink(os.path.join(target, name), temporary)
            # epath would take a link to a directory for the directory.
            os.replace(temporary, self._own / name)

    def _directory(self, plans: Sequence[int]) -> epath.Path:
        content = json.dumps([self._identity, list(plans)], sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
        role, _, seed = self._role.run(self._seed).rpartition("-")
        return self._shared / f"{role}-{key}-{seed}"


def train_once(
    trainer: Trainer,
    role: Role,
    seed: int,
    start: Start,
    teachers: Teachers,
    setting: Setting,
) -> Trained:
    """Returns a trained student or twin; only twins are shared.

    Args:
        trainer: What trains it.
        role: What it is for.
        seed: Its seed.
        start: Where it starts.
        teachers: Whose first one it may be pruned from.
        setting: The experiment's setting.
    """
    name = role.run(seed)
    directory = setting.workdir / name
    if role.teachers or not _may_share(setting, name):
        return trainer(name, seed, directory / "model", directory, start.params)
    twin = SharedTwin(role, seed, start, teachers, setting)
    model = twin.directory / "model"
    with one_at_a_time(twin.lock, name, is_made=native.is_model(model)):
        if jax.process_index() == 0:
            twin.begin()
        barrier(f"begun {name}")
        trained = trainer(name, seed, model, twin.directory, start.params)
    if jax.process_index() == 0:
        twin.link()
    return trained


def _may_share(setting: Setting, name: str) -> bool:
    """Returns whether a run is shared: not one that the experiment began on its own."""
    own = setting.workdir / name / "checkpoints"
    return setting.shared is not None and not own.exists()


def _identity(
    seed: int, start: Start, teachers: Teachers, setting: Setting
) -> dict[str, Any]:
    """Returns all that determines a twin and its record, but for its steps."""
    config, info = setting.config, setting.prepared.info
    student = dataclasses.asdict(config.student)
    del student["train"]["steps"]
    if not config.student.train.spike_guard.deviations:
        del student["train"]["spike_guard"]  # so that older runs are still found
    origin = ""
    if config.student.path:
        origin = setting.opened[config.student.path].fingerprint
    elif config.student.is_pruned:
        first = next(iter(config.all_teachers.values()))
        # On all processes alike: only the first knows the hash of a loaded teacher.
        origin = teachers.first.sha256
        if first.path:
            origin = setting.opened[first.path].fingerprint
    return {
        "seed": seed,
        "student": student,
        "model": dataclasses.asdict(start.model.config),
        "origin": origin,
        "tokenizer": setting.prepared.tokenizer.sha256,
        "data": [info["splits"][split]["sha256"] for split in ("train", "validation")],
        "length": config.data.length,
        "special_tokens": info.get("special_tokens", ""),
        # When it is evaluated, its curve is part of the report.
        "evaluate": [config.evaluate.every, config.evaluate.rows],
        "tasks": [
            *(*config.evaluate.tasks, *config.evaluate.metrics),
            *setting.task_hashes.values(),
        ],
        "batch": config.evaluate.batch_size,
        "checkpoint": config.checkpoint.every,
    }
