"""What a training must satisfy before anything runs."""

import dataclasses
from collections.abc import Callable

from kdjax.config.parsing import between, whole
from kdjax.config.schema import (
    OPTIMIZER_PARAMETERS,
    OptimizerConfig,
    SpikeGuardConfig,
    TrainConfig,
)
from kdjax.core.errors import UsageError

MOST = 10**9  # of steps, rows and whatever else is counted
_WHOLE = {
    "steps": 1,
    "batch_size": 1,
    "micro_batches": 1,
    "rows_per_device": 0,
    "chunk_size": 0,
}
_SPIKE_GUARD = {
    "window": (2, 10_000),
    "rewind": (0, MOST),
    "skip": (0, MOST),
    "times": (0, 1000),
}
# What float32 can hold, with room to calculate.
_NUMBERS = {
    "learning_rate": (1e-30, 1e6),
    "clip": (1e-30, 1e30),
    "epsilon": (1e-30, 1e6),
    "beta2_decay": (1e-6, 1e3),
}
_ALMOST_ONE = 1 - 2**-24  # from here on it is 1 in float32
# Parameters that do nothing unless another one has some value.
_ONLY: tuple[tuple[str, Callable[[OptimizerConfig], bool], str], ...] = (
    ("decay_fraction", lambda o: o.decay == "wsd", "decay = 'wsd'"),
    ("final_fraction", lambda o: o.decay != "constant", "decay is not 'constant'"),
    ("nesterov", lambda o: o.momentum > 0, "momentum > 0"),
    ("mu_dtype", lambda o: o.name != "sgd" or o.momentum > 0, "momentum > 0"),
)


def check_train(train: TrainConfig, path: str) -> None:
    """Raises unless a model can be trained so; `path` names the keys in messages.

    Raises:
        UsageError: A value is out of range, or would do nothing.
    """
    for name, least in _WHOLE.items():
        whole(getattr(train, name), least, MOST, f"{path}.{name}")
    if not 0 < train.data_fraction <= 1:
        raise UsageError(
            f"{path}.data_fraction must be in (0, 1]; it is {train.data_fraction:g}"
        )
    if train.rows_per_device and train.micro_batches != TrainConfig.micro_batches:
        raise UsageError(
            f"{path}.micro_batches and {path}.rows_per_device are both set; remove one"
        )
    _check_optimizer(train.optimizer, train.steps, f"{path}.optimizer")
    _check_spike_guard(train.spike_guard, f"{path}.spike_guard")


def _check_spike_guard(guard: SpikeGuardConfig, path: str) -> None:
    between(guard.deviations, 0.0, 1e6, f"{path}.deviations")
    for name, (least, most) in _SPIKE_GUARD.items():
        whole(getattr(guard, name), least, most, f"{path}.{name}")
    if not guard.deviations and guard != SpikeGuardConfig():
        raise UsageError(
            f"{path} is set, but does nothing unless {path}.deviations > 0; try 30"
        )


def _check_optimizer(optimizer: OptimizerConfig, steps: int, path: str) -> None:
    if optimizer.name not in OPTIMIZER_PARAMETERS:
        raise UsageError(
            f"{path}.name must be one of {', '.join(OPTIMIZER_PARAMETERS)}; it is "
            f"{optimizer.name!r}"
        )
    for name, (low, high) in _NUMBERS.items():
        value = getattr(optimizer, name)
        if not low <= value <= high:
            raise UsageError(
                f"{path}.{name} must be > 0 and in [{low:g}, {high:g}]; it is {value:g}"
            )
    for name in (
        "warmup_fraction",
        "decay_fraction",
        "final_fraction",
        "weight_decay",
    ):
        between(getattr(optimizer, name), 0.0, 1.0, f"{path}.{name}")
    for name in ("beta1", "beta2", "momentum"):
        if not 0 <= getattr(optimizer, name) < _ALMOST_ONE:
            value = getattr(optimizer, name)
            raise UsageError(f"{path}.{name} must be in [0, 1); it is {value:g}")
    _check_warmup(optimizer, steps, path)
    defaults = {f.name: f.default for f in dataclasses.fields(optimizer)}
    taken = OPTIMIZER_PARAMETERS[optimizer.name]
    for name in {n for names in OPTIMIZER_PARAMETERS.values() for n in names}:
        if getattr(optimizer, name) != defaults[name] and name not in taken:
            raise UsageError(
                f"{path}.{name} is set, but {optimizer.name} takes {', '.join(taken)}; "
                f"remove it or change {path}.name"
            )
    for name, serves, condition in _ONLY:
        if getattr(optimizer, name) != defaults[name] and not serves(optimizer):
            raise UsageError(
                f"{path}.{name} is set, but does nothing unless {path}.{condition}; "
                "remove it or change that"
            )


def _check_warmup(optimizer: OptimizerConfig, steps: int, path: str) -> None:
    default = OptimizerConfig.warmup_fraction
    whole(optimizer.warmup_steps, -1, MOST, f"{path}.warmup_steps")
    if optimizer.warmup_steps < 0:
        return
    if optimizer.warmup_fraction != default:
        raise UsageError(
            f"{path}.warmup_steps and {path}.warmup_fraction are both set; remove one"
        )
    if optimizer.warmup_steps > steps:
        raise UsageError(
            f"{path}.warmup_steps = {optimizer.warmup_steps} is more than the run's "
            f"{steps} steps"
        )
