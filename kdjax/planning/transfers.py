"""What devices send each other in a step, and how long that takes, by formula."""

import math

from kdjax.models.transformer.decoder import table_size
from kdjax.parallel.sharding import BATCH_AXES
from kdjax.planning.arrays import stored
from kdjax.planning.memory import Layer, layer_of
from kdjax.planning.resolve import Subject
from kdjax.planning.target import Target

_EFFICIENCY = 0.85  # of a link's rate


def transfers(subject: Subject) -> dict[str, float]:
    """Returns the seconds of a step's transfers, by what they are for.

    Gathers and reduce-scatters of S bytes over n devices take (n - 1) / n S, an
    all-reduce both.
    """
    mesh, micro = subject.mesh, subject.config.student.train.micro_batches
    student = layer_of(subject, subject.student)
    teachers = [layer_of(subject, each.model) for each in subject.teachers.values()]
    found = {}
    if mesh["fsdp"] > 1:
        rate = _share(mesh["fsdp"]) / bandwidth(subject, "fsdp")
        # What the forward pass has gathered, only "none" keeps.
        passes = 1 if subject.student.remat == "none" else 2
        weights = passes * student.model.layers * student.weights
        weights += sum(each.model.layers * each.weights for each in teachers)
        tables = 2 * sum(_table(each) for each in [student, *teachers])
        found["gathered weights"] = (micro * weights + tables) * rate
        gradients = student.model.layers * student.weights + 2 * _table(student)
        found["gradients (fsdp)"] = micro * gradients * rate
    if mesh["data"] > 1:
        rate = 2 * _share(mesh["data"]) / bandwidth(subject, "data")
        found["gradients (data)"] = stored(subject).parameters * rate
    if mesh["tensor"] > 1:
        rate = 2 * _share(mesh["tensor"]) / bandwidth(subject, "tensor")
        passes = 4 if subject.student.remat in ("none", "dots") else 6
        sums = passes * student.model.layers * student.residual
        sums += sum(2 * each.model.layers * each.residual for each in teachers)
        sums += 2 * student.residual  # the loss's gradient, in float32
        found["activations (tensor)"] = micro * sums * rate
    return found


def _share(devices: int) -> float:
    return (devices - 1) / devices


def _table(layer: Layer) -> float:
    return layer.size * table_size(layer.model) * layer.model.width / layer.tensor


def bandwidth(subject: Subject, axis: str) -> float:
    """Returns the bytes/s that a device sends along an axis of the mesh."""
    target, size = subject.target, subject.mesh[axis]
    rate = _within(target, size)
    if target.slices > 1 and axis == split_axis(subject):
        # A host's devices share its way out.
        devices = min(target.chip.host, target.per_slice)
        rate = min(rate, target.chip.network / devices)
    return _EFFICIENCY * rate


def split_axis(subject: Subject) -> str:
    """Returns the axis that crosses from slice to slice, as `arranged` chooses it."""
    slices = subject.target.slices
    return next(axis for axis in BATCH_AXES if not subject.mesh[axis] % slices)


def _within(target: Target, size: int) -> float:
    """Returns the rate within a slice: of a switch, or of the torus's rings."""
    if not target.shape:
        return target.chip.link
    # An axis takes as many dimensions of the torus as its size needs.
    chips = max(math.prod(target.shape), 2)
    share = min(math.log(max(size, 2)) / math.log(chips), 1.0)
    links = sum(2 if _is_ring(target, length) else 1 for length in target.shape)
    return target.chip.link * max(share * links, 1.0)


def _is_ring(target: Target, length: int) -> bool:
    """Returns whether the ends of a dimension are linked: both directions count."""
    if target.chip.dimensions == 3:
        return length % 4 == 0
    return length == 16
