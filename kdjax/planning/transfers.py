"""What devices send each other in a step, and how long that takes, by formula."""

import math
from collections.abc import Callable

from kdjax.models.transformer.decoder import table_size
from kdjax.parallel.sharding import BATCH_AXES
from kdjax.planning.arrays import stored
from kdjax.planning.layers import POLICIES, Layer, layer_of
from kdjax.planning.resolve import Subject
from kdjax.planning.target import Target

_EFFICIENCY = 0.85  # of a link's rate


def transfers(subject: Subject) -> dict[str, float]:
    """Returns the seconds of a step's transfers, by what they are for.

    Gathers and reduce-scatters of S bytes over n devices take (n - 1) / n S, an
    all-reduce both.
    """
    found: dict[str, float] = {}
    for axis, devices in subject.mesh.items():
        if devices > 1:
            rate = (devices - 1) / devices / bandwidth(subject, axis)
            sent = SENT[axis](subject)
            found |= {f"{what} ({axis})": rate * size for what, size in sent.items()}
    return found


def _along_data(subject: Subject) -> dict[str, float]:
    return {"gradients": 2.0 * stored(subject).parameters}


def _along_fsdp(subject: Subject) -> dict[str, float]:
    micro = subject.config.student.train.micro_batches
    student, *teachers = _layers(subject)
    passes = 2 if POLICIES[subject.student.remat].gathers else 1
    weights = passes * student.model.layers * student.weights
    weights += sum(each.model.layers * each.weights for each in teachers)
    # Heads are gathered before the first micro-batch, for all of them.
    heads = sum(_table(each) for each in [student, *teachers])
    gradients = student.model.layers * student.weights + _table(student)
    return {"weights": micro * weights + heads, "gradients": micro * gradients}


def _along_tensor(subject: Subject) -> dict[str, float]:
    micro = subject.config.student.train.micro_batches
    student, *teachers = _layers(subject)
    passes = 4 + 2 * POLICIES[subject.student.remat].products
    sums = passes * student.model.layers * student.residual
    sums += sum(2 * each.model.layers * each.residual for each in teachers)
    sums += 2 * student.residual  # the loss's gradient, in float32
    return {"activations": 2 * micro * sums}


# By axis of the mesh, the bytes that are sent along it in a step, by what they are for;
# those of an all-reduce twice.
SENT: dict[str, Callable[[Subject], dict[str, float]]] = {
    "data": _along_data,
    "fsdp": _along_fsdp,
    "tensor": _along_tensor,
}


def _layers(subject: Subject) -> list[Layer]:
    """Returns a layer of the student, and of each teacher."""
    models = [subject.student, *(each.model for each in subject.teachers.values())]
    return [layer_of(subject, model) for model in models]


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
