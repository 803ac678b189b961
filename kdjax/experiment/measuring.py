"""The size, speed and arithmetic of an experiment's models."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.core.logging import say
from kdjax.evaluation.speed import forward_speed
from kdjax.experiment.setting import Setting, count_parameters, parameter_shardings
from kdjax.experiment.teachers import Teachers
from kdjax.losses import FromHidden, apply_head
from kdjax.models import Model
from kdjax.models.flops import forward_flops
from kdjax.results.measured import ModelInfo, teacher_role
from kdjax.targets.online import Halves, halve, of_model
from kdjax.train.sources import device_batches


def measure_models(
    setting: Setting, teachers: Teachers, student: Model
) -> dict[str, ModelInfo]:
    """Returns the size and forward speed of the student and of every teacher."""
    rows, size = (
        setting.prepared.splits["validation"],
        setting.config.evaluate.batch_size,
    )
    batch = next(device_batches(rows, setting.mesh, size))
    rules = setting.config.student.rules
    placed = parameter_shardings(student, rules, setting)
    # Zeros are as fast as any values, and compile at once.
    shapes = jax.eval_shape(student.init, jax.random.key(0))
    zeros = partial(jax.tree.map, lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    params = jax.jit(zeros, out_shardings=placed)()
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
        name: _info([m for m, _ in members], speed[name], setting)
        for name, members in models.items()
    }


def _info(models: Sequence[Model], speed: float, setting: Setting) -> ModelInfo:
    length = setting.config.data.length
    return ModelInfo(
        parameters=sum(map(count_parameters, models)),
        forward_tokens_per_second=speed,
        architecture=models[0].config if len(models) == 1 else None,
        forward_flops=sum(forward_flops(model.config, length) for model in models),
    )


def _forward(members: Any) -> Callable[[Any, Any], Any]:
    """Returns the forward pass of one model, or of several in turn.

    What reads the tokens is compiled already, for evaluations.
    """
    halves = [halve(of_model(model)) for model, _ in members]

    @jax.jit
    def heads(params: Any, batch: Any, read: Any) -> Any:
        found = map(_joined, halves, params, repeat(batch), read)
        return [apply_head(each.head, each.hidden) for each in found]

    def forward(params: Any, batch: Any) -> Any:
        read = [half.read(p, batch) for half, p in zip(halves, params, strict=True)]
        return heads(params, batch, read)

    return forward


def _joined(half: Halves, params: Any, batch: Any, read: Any) -> FromHidden:
    found = half.joined(params, batch, read)
    assert isinstance(found, FromHidden)
    return found
