"""What a train step needs of a device's memory, by formula.

A step needs most at one of a few moments. What is alive then is added up: what each
device stores (exact, see `arrays`) and what exists for the moment (estimated).
docs/planning.md compares the sums with those of the compiler.
"""

from typing import NamedTuple

import jax.numpy as jnp

from kdjax.config.architecture import ModelConfig
from kdjax.losses.chunks import default_size
from kdjax.models.transformer.decoder import table_size
from kdjax.planning.arrays import stored
from kdjax.planning.layers import POLICIES, Layer, layer_of
from kdjax.planning.resolve import Subject

_WORKING = 0.3  # of what a layer recomputes, alive at one time
_GAPS = 1.05  # what is allocated, over what is alive: the heap has gaps
KINDS = (
    "student parameters",
    "optimiser moments",
    "teacher parameters",
    "batch",
    "gradients",
    "saved activations",
    "activations of a layer",
    "attention scratch",
    "gathered weights",
    "loss",
)


class Memory(NamedTuple):
    """Bytes a device at the moment that needs most.

    Attributes:
        kinds: What they are for, all of `KINDS`.
        moment: When that is.
    """

    kinds: dict[str, float]
    moment: str

    @property
    def total(self) -> float:
        """All bytes."""
        return sum(self.kinds.values())


def memory(subject: Subject) -> Memory:
    """Returns what the student's step needs where it needs most."""
    moments = {
        "the loss": _at_the_loss,
        "the student's backward pass": _backward,
        "the teacher's forward pass": _teachers_forward,
    }
    always = _always(subject)
    found = []
    for name, moment in moments.items():
        kinds = dict.fromkeys(KINDS, 0.0) | always
        for kind, size in moment(subject).items():
            kinds[kind] += _GAPS * size
        found.append(Memory(kinds, name))
    return max(found, key=lambda each: each.total)


def _always(subject: Subject) -> dict[str, float]:
    """Returns what is there from the first to the last moment."""
    train, arrays = subject.config.student.train, stored(subject)
    tokens = train.batch_size * subject.config.data.length / subject.batch_shards
    return {
        "student parameters": float(arrays.parameters),
        "optimiser moments": float(arrays.moments),
        "teacher parameters": float(arrays.teachers),
        "batch": 2 * 4 * tokens,  # ids and segments
    }


def _common(subject: Subject) -> dict[str, float]:
    """Returns what is alive at the loss and in the student's backward pass."""
    student = layer_of(subject, subject.student)
    parameters = stored(subject).parameters
    # Between layers the residual stream is sharded over `tensor` too.
    kept = student.residual / student.tensor
    kept += POLICIES[subject.student.remat].kept(student)
    is_parted = subject.config.student.train.micro_batches > 1
    return {
        "gradients": float(parameters) if is_parted else 0.0,  # the sum so far
        "saved activations": subject.student.layers * kept,
        "gathered weights": _casts(subject) + _kept_weights(subject, student),
    }


def _kept_weights(subject: Subject, student: Layer) -> float:
    """Returns the bytes of gathered weights that wait for the backward pass."""
    is_gathered = subject.mesh["fsdp"] > 1
    if not is_gathered or POLICIES[subject.student.remat].gathers:
        return 0.0
    return subject.student.layers * student.weights


def _casts(subject: Subject) -> float:
    """Returns the bytes of parameters in the computation's precision, still sharded."""
    arrays = stored(subject)
    narrow = jnp.dtype(subject.student.dtype).itemsize
    cast = arrays.parameters * narrow / 4 if narrow < 4 else 0.0
    for each in subject.teachers.values():
        if each.dtype != each.model.dtype:
            cast += stored(subject._replace(teachers={"": each})).teachers / 2
    return cast


def _tables(subject: Subject) -> float:
    """Returns the bytes of gathered heads; embeddings are looked up where they are."""
    if subject.mesh["fsdp"] == 1:
        return 0.0
    models = [subject.student, *(each.model for each in subject.teachers.values())]
    return sum(_table(subject, model) for model in models)


def _table(subject: Subject, model: ModelConfig) -> float:
    """Returns the bytes of a head, or of a table of embeddings, that is gathered."""
    size = jnp.dtype(model.dtype).itemsize
    return size * table_size(model) * model.width / subject.mesh["tensor"]


def _at_the_loss(subject: Subject) -> dict[str, float]:
    student = layer_of(subject, subject.student)
    models = [subject.student, *(each.model for each in subject.teachers.values())]
    ids = table_size(subject.student) / subject.mesh["tensor"]
    widest = max(model.width for model in models)
    size = subject.config.student.train.chunk_size
    size = size or default_size(
        student.tokens, widest, int(ids), subject.target.chip.platform
    )
    logits = 4.0 * min(size, student.tokens) * ids
    head = 4.0 * ids * subject.student.width  # its gradient, summed over the chunks
    # Where nothing scatters it, the sum over devices is another array.
    copies = 2 if subject.mesh["fsdp"] == 1 < subject.mesh["data"] else 1
    hidden = sum(student.tokens * model.width * student.size for model in models)
    kinds = _common(subject)
    kinds["gathered weights"] += _tables(subject)
    kinds["loss"] = copies * head + len(models) * logits + hidden + student.residual
    return kinds


def _backward(subject: Subject) -> dict[str, float]:
    student = layer_of(subject, subject.student)
    kinds = _common(subject)
    is_parted = subject.config.student.train.micro_batches > 1
    kinds["gradients"] += stored(subject).parameters
    kinds["gathered weights"] += 2 * student.weights  # of this layer and the next
    kinds["gathered weights"] += _tables(subject) if is_parted else 0.0
    recomputed = student.everything - POLICIES[subject.student.remat].kept(student)
    kinds["activations of a layer"] = _WORKING * recomputed + student.inner
    kinds["attention scratch"] = 3 * student.scores
    return kinds


def _teachers_forward(subject: Subject) -> dict[str, float]:
    if not subject.teachers:
        return {}
    models = [each.model for each in subject.teachers.values()]
    layers = [layer_of(subject, model) for model in models]
    largest = max(layers, key=lambda each: each.weights)
    kinds = _common(subject)
    kinds["gathered weights"] += 2 * largest.weights
    kinds["gathered weights"] += max(_table(subject, model) for model in models)
    kinds["activations of a layer"] = 3 * largest.inner + 3 * largest.query
    kinds["attention scratch"] = 2 * largest.scores
    return kinds
