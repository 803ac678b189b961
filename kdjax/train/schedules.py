"""Values over steps: constants, ramps, and the learning rate."""

from collections.abc import Callable
from typing import Any

import optax

from kdjax.config.schema import OptimizerConfig, ScheduleConfig

Schedule = Callable[[Any], Any]


def make_schedule(value: float | ScheduleConfig, steps: int) -> Schedule:
    """Returns a function of the step for a constant or a ramp over `steps`.

    A constant stays a Python number under `jit`, so that the compiler can fold it.

    Example:
        >>> ramp = make_schedule(ScheduleConfig("linear", start=1.0, end=0.0), steps=4)
        >>> [float(ramp(step)) for step in range(5)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if not isinstance(value, ScheduleConfig):
        return optax.schedules.constant_schedule(value)
    if value.kind == "linear":
        return optax.schedules.linear_schedule(value.start, value.end, steps)
    falling = optax.schedules.cosine_decay_schedule(1.0, steps)
    return lambda step: value.end + (value.start - value.end) * falling(step)


def learning_rate(config: OptimizerConfig, steps: int) -> Schedule:
    """Returns the learning rate: linear warm-up, then decay to `final_fraction`.

    The decay of "wsd", warm-up, stable and decay (Hu et al. 2024, arXiv:2404.06395), is
    linear and begins when `decay_fraction` of the steps are left.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if warmup < 0:
        warmup = round(config.warmup_fraction * steps)
    rest, final = max(1, steps - warmup), config.final_fraction
    last = min(rest, max(1, round(config.decay_fraction * steps)))
    decay = {
        "constant": optax.schedules.constant_schedule(peak),
        "linear": optax.schedules.linear_schedule(peak, final * peak, rest),
        "cosine": optax.schedules.cosine_decay_schedule(peak, rest, final),
        "wsd": optax.schedules.linear_schedule(peak, final * peak, last, rest - last),
    }[config.decay]
    if not warmup:
        return decay
    # From peak / warmup, not from 0, so that the first step is not wasted.
    rise = optax.schedules.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.schedules.join_schedules([rise, decay], [warmup])
