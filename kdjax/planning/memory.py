"""What a train step needs of a device's memory, by formula.

A step needs most at one of a few moments. What is alive then is added up: what each
device stores (exact, see `arrays`) and what exists for the moment (estimated).
docs/planning.md compares the sums with those of the compiler.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from kdjax.config.architecture import ModelConfig
from kdjax.losses.chunks import default_size
from kdjax.models.transformer.decoder import table_size
from kdjax.models.transformer.kernels import choose
from kdjax.parallel.placement import Devices, Placement
from kdjax.planning.arrays import stored
from kdjax.planning.resolve import Subject

_LANES = 128  # of a TPU: kernels pad narrower heads to it
_WORKING = 0.3  # of what a layer recomputes, alive at one time
_GAPS = 1.03  # what is allocated, over what is alive: the heap has gaps
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


class Layer(NamedTuple):
    """One device's share of a model's layer, for a micro-batch.

    Attributes:
        model: The architecture.
        tokens: How many a device has.
        length: Tokens in a row.
        kernel: What computes the attention.
        tensor: Devices along the axis that heads and channels are sharded over.
        tiled: Whether heads are padded to the lanes of a TPU.
    """

    model: ModelConfig
    tokens: int
    length: int
    kernel: str
    tensor: int
    tiled: bool

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return jnp.dtype(self.model.dtype).itemsize

    @property
    def residual(self) -> float:
        """Bytes of the residual stream."""
        return 1.0 * self.tokens * self.model.width * self.size

    @property
    def query(self) -> float:
        """Bytes of the queries, or of what attention returns."""
        heads = self.model.heads * self.model.width_of_head
        return self.tokens * heads * self.size / self.tensor

    @property
    def keys(self) -> float:
        """Bytes of the keys, or of the values."""
        return self.query * self.model.key_value_heads / self.model.heads

    @property
    def inner(self) -> float:
        """Bytes of one array of the MLP's channels."""
        return self.tokens * self.model.width_of_ffn * self.size / self.tensor

    @property
    def scores(self) -> float:
        """Bytes of the attention's scores in float32; a kernel of blocks has none."""
        if self.kernel != "xla":
            return 0.0
        heads = self.model.heads / self.tensor
        return 4.0 * self.tokens * heads * self.length

    @property
    def padding(self) -> float:
        """By how much a TPU's kernel pads a head."""
        width = self.model.width_of_head
        if not self.tiled or self.kernel == "xla":
            return 1.0
        return -(-width // _LANES) * _LANES / width

    @property
    def products(self) -> float:
        """Bytes of all products of matrices but attention's own."""
        gates = 2 if self.model.mlp == "gated" else 1
        heads = (self.query + 2 * self.keys) * self.padding
        return heads + 2 * self.residual + gates * self.inner

    @property
    def context(self) -> float:
        """Bytes of what attention returns, with the sums that its backward needs."""
        sums = 4.0 * self.tokens * self.model.heads / self.tensor
        return self.query * self.padding + (sums if self.kernel != "xla" else 0.0)

    @property
    def everything(self) -> float:
        """Bytes of all that a layer's backward pass reads."""
        floats = 6 * 4.0 * self.tokens * self.model.width  # of the two norms
        heads = (2 * self.query + 2 * self.keys) * self.padding + self.query
        return 3 * self.residual + floats + heads + 6 * self.inner + 1.5 * self.scores

    @property
    def weights(self) -> float:
        """Bytes of a layer's matrices, gathered."""
        model = self.model
        heads = 2 * (model.heads + model.key_value_heads) * model.width_of_head
        matrices = 2 if model.mlp == "plain" else 3
        return (
            self.size
            * model.width
            * (heads + matrices * model.width_of_ffn)
            / self.tensor
        )


# What the forward pass keeps of a layer, by policy, beside its input.
_SAVED: dict[str, Callable[[Layer], float]] = {
    "none": lambda layer: layer.everything - layer.residual,
    "block": lambda layer: 0.0,
    "context": lambda layer: layer.context,
    "dots": lambda layer: layer.products,
}


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


def layer_of(subject: Subject, model: ModelConfig) -> Layer:
    """Returns a layer of one of the subject's models, on one device."""
    train, length = subject.config.student.train, subject.config.data.length
    rows = train.batch_size // train.micro_batches
    mesh, platform = subject.mesh, subject.target.chip.platform
    devices = Devices(platform, subject.batch_shards, mesh["tensor"], lambda run: run)
    kernel = choose(model, Placement(devices=devices), (rows, length))
    tokens = rows * length // subject.batch_shards
    return Layer(model, tokens, length, kernel, mesh["tensor"], platform == "tpu")


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
    kept = student.residual + _SAVED[subject.student.remat](student)
    is_parted = subject.config.student.train.micro_batches > 1
    return {
        "gradients": float(parameters) if is_parted else 0.0,  # the sum so far
        "saved activations": subject.student.layers * kept,
        "gathered weights": _casts(subject) + _kept_weights(subject, student),
    }


def _kept_weights(subject: Subject, student: Layer) -> float:
    """Returns the bytes of gathered weights that wait for the backward pass."""
    is_kept = subject.student.remat == "none" and subject.mesh["fsdp"] > 1
    return subject.student.layers * student.weights if is_kept else 0.0


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
    """Returns the bytes of gathered heads, and of tables that are kept beside them.

    Micro-batches share what is gathered before the first of them: the tables that
    embeddings are looked up in as well. Where a teacher's table is its head, one copy
    serves both; the student's head is another one, which its gradient flows through.
    """
    if subject.mesh["fsdp"] == 1:
        return 0.0
    is_parted = subject.config.student.train.micro_batches > 1
    tables = (2 if is_parted else 1) * _table(subject, subject.student)
    for each in subject.teachers.values():
        is_apart = is_parted and not each.model.tie_embeddings
        tables += (2 if is_apart else 1) * _table(subject, each.model)
    return tables


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
    size = size or default_size(student.tokens, widest, int(ids))
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
    recomputed = student.everything - _SAVED[subject.student.remat](student)
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
