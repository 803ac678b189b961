"""The sizes and forward speeds of an experiment's models."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from kdjax.core.logging import say
from kdjax.evaluation.speed import forward_speed
from kdjax.experiment.setting import Setting, count_parameters, parameter_shardings
from kdjax.experiment.teachers import Teachers
from kdjax.models import Model
from kdjax.results.measured import ModelInfo, teacher_role
from kdjax.train.sources import device_batches


def measure_models(
    student: Model, teachers: Teachers, setting: Setting
) -> dict[str, ModelInfo]:
    """Returns the size and forward speed of the student and of every teacher."""
    rows, size = (
        setting.prepared.splits["validation"],
        setting.config.evaluate.batch_size,
    )
    batch = next(device_batches(rows, setting.mesh, size))
    rules = setting.config.student.rules
    placed = parameter_shardings(student, rules, setting)
    params = jax.jit(student.init, out_shardings=placed)(jax.random.key(0))
    models: dict[str, Any] = {"student": ((student, params),)}
    for name, trained in teachers.trained.items():
        models[teacher_role(name)] = ((trained.model, trained.params),)
    say("forward speed: compiling ...")
    models["teacher"] = tuple((t.model, t.params) for t in teachers.trained.values())
    speed = forward_speed(
        {
            name: partial(_forward(members), [p for _, p in members])
            for name, members in models.items()
        },
        batch,
    )
    return {
        name: ModelInfo(sum(count_parameters(m) for m, _ in members), speed[name])
        for name, members in models.items()
    }


def _forward(members: Any) -> Callable[[Any, Any], Any]:
    """Returns the forward pass of one model, or of several in turn."""

    def forward(params: Any, batch: Any) -> Any:
        inputs = batch["tokens"], batch["segments"]
        return [m.logits(p, *inputs) for (m, _), p in zip(members, params, strict=True)]

    return jax.jit(forward)
