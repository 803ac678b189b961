"""What a step minimises: losses on labels and targets, weighted by schedules."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Array

from kdjax.config.schema import DistillConfig
from kdjax.losses import DIVERGENCES, SoftValues, Targets
from kdjax.parallel.sharding import Batch
from kdjax.targets.online import Predict
from kdjax.train.schedules import Schedule, make_schedule


class SoftSchedules(NamedTuple):
    """`losses.SoftValues` over the steps of a run."""

    kind: str
    weight: Schedule
    temperature: Schedule
    parameters: Mapping[str, Schedule] = {}

    def at(self, step: Array) -> SoftValues:
        """Returns the values at a step."""
        parameters = {name: value(step) for name, value in self.parameters.items()}
        return SoftValues(
            self.kind, self.weight(step), self.temperature(step), parameters
        )


class Objective(NamedTuple):
    """The loss of a step.

    Attributes:
        hard: Weight of the cross-entropy with the labels.
        soft: By name of the target, its divergence and weight.
        targets: `targets(frozen, batch)`, the targets by the same names, computed from
            frozen parameters or read from the batch.
    """

    hard: Schedule
    soft: Mapping[str, SoftSchedules]
    targets: Callable[[Mapping[str, Any], Batch], Mapping[str, Targets]]

    @property
    def schedules(self) -> dict[str, Schedule]:
        """What moves over the steps, by the name under which it is recorded."""
        found: dict[str, Schedule] = {}
        for name, soft in self.soft.items():
            named = {"alpha": soft.weight, "temperature": soft.temperature}
            for key, value in {**named, **soft.parameters}.items():
                found[of_target(key, name)] = value
        return found


def of_target(metric: str, target: str) -> str:
    """Returns the name of a target's metric; the teacher's has no suffix.

    Example:
        >>> of_target("soft", "teacher"), of_target("soft", "peer")
        ('soft', 'soft_peer')
    """
    return metric if target == "teacher" else f"{metric}_{target}"


def hard_labels() -> Objective:
    """Returns the cross-entropy with the labels alone."""
    return Objective(make_schedule(1.0, 1), {}, lambda frozen, batch: {})


def distillation(teacher: Predict, config: DistillConfig, steps: int) -> Objective:
    """Returns the mixture of soft targets and labels that the config describes.

    Args:
        teacher: From the frozen parameters and a batch to the soft targets.
        config: Divergence, temperature and weight of the soft loss.
        steps: The number of steps in the run, for schedules.
    """
    alpha = make_schedule(config.alpha, steps)
    soft = SoftSchedules(
        config.kind,
        alpha,
        make_schedule(config.temperature, steps),
        {
            name: make_schedule(getattr(config, name), steps)
            for name in DIVERGENCES[config.kind].parameters
        },
    )

    def targets(frozen: Mapping[str, Any], batch: Batch) -> Mapping[str, Targets]:
        return {"teacher": teacher(frozen, batch)}

    return Objective(lambda step: 1.0 - alpha(step), {"teacher": soft}, targets)
