"""How long a train step takes, by formula: products, memory traffic, transfers.

The assumptions are constants below; `assumptions` says them in words. docs/planning.md
compares the work with the compiler's cycles.
"""

from typing import NamedTuple

from kdjax.losses.chunks import default_size
from kdjax.models.flops import training_flops
from kdjax.models.transformer.decoder import table_size
from kdjax.planning.arrays import stored
from kdjax.planning.layers import POLICIES, Layer, layer_of
from kdjax.planning.resolve import Subject
from kdjax.planning.transfers import transfers

# Of the peak rate: what large products reach, and what attention by blocks does with
# heads of 128 and of 64.
_PRODUCTS = {"tpu": 0.85, "gpu": 0.7}
_WIDE_HEADS = {"tpu": 0.45, "gpu": 0.55}
_NARROW_HEADS = {"tpu": 0.25, "gpu": 0.45}
_BANDWIDTH = 0.8  # of the memory's
# Passes over the scores in float32 without a kernel: forward, and backward after it.
_FORWARD_PASSES, _BACKWARD_PASSES = 5, 9
_NVLINK = 200e9  # bytes/s from which on a GPU's link is that
_OVERHEAD = 1.1  # copies, and whatever else compilers add
_LOGIT_BYTES = 20  # read and written for each logit of each model, gradients included


class Times(NamedTuple):
    """Seconds of a step on each device.

    Attributes:
        products: Products of matrices, or reading their weights if that takes longer.
        attention: Scores and what is read by them.
        traffic: All else that reads and writes memory.
        transfers: What devices send each other, by what it is for.
        model_flops: FLOPs a device that the mathematics needs, attention in full.
        peak: FLOP/s of a device.
    """

    products: float
    attention: float
    traffic: float
    transfers: dict[str, float]
    model_flops: float
    peak: float

    @property
    def work(self) -> float:
        """What a device does by itself."""
        return self.products + self.attention + self.traffic

    @property
    def step(self) -> float:
        """The step, if transfers hide behind work."""
        return max(self.work, self.exchange)

    @property
    def exposed(self) -> float:
        """The step, if none of them does."""
        return self.work + self.exchange

    @property
    def exchange(self) -> float:
        """All transfers together."""
        return sum(self.transfers.values(), 0.0)

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation of `step`."""
        return self.model_flops / self.step / self.peak

    @property
    def bound(self) -> str:
        """What the step would have to have more of."""
        if self.exchange > self.work:
            return "transfers"
        if self.traffic > self.products + self.attention:
            return "memory bandwidth"
        return "compute"


def times(subject: Subject) -> Times:
    """Returns the times of the student's step, or of its twin's without teachers."""
    chip, config = subject.target.chip, subject.config
    micro = config.student.train.micro_batches
    student = layer_of(subject, subject.student)
    teachers = [layer_of(subject, each.model) for each in subject.teachers.values()]
    policy = POLICIES[subject.student.remat]
    passes = [(student, 3 + policy.products), *((each, 1.0) for each in teachers)]
    rate = _PRODUCTS[chip.platform] * chip.flops
    bandwidth = _BANDWIDTH * chip.bandwidth
    products = traffic = attention = 0.0
    for layer, runs in passes:
        count = layer.model.layers
        flops = runs * count * _matrix_flops(layer)
        weights = runs * count * layer.weights
        products += micro * max(flops / rate, weights / bandwidth)
        traffic += micro * runs * count * _layer_bytes(layer) / bandwidth
        forward = 1 + (layer is student and policy.attention)
        attention += (
            micro
            * count
            * _attention_seconds(
                layer, subject, forward=forward, backward=int(layer is student)
            )
        )
    head_flops, head_bytes = _head(subject, [student, *teachers])
    products += micro * head_flops / rate
    traffic += (micro * head_bytes + _update_bytes(subject)) / bandwidth
    products, traffic = _OVERHEAD * products, _OVERHEAD * traffic
    length = config.data.length
    tokens = config.student.train.batch_size * length
    models = [each.model for each in subject.teachers.values()]
    flops = tokens * training_flops(subject.student, models, length)
    return Times(
        products,
        attention,
        traffic,
        transfers(subject),
        flops / subject.target.devices,
        chip.flops,
    )


def _matrix_flops(layer: Layer) -> float:
    """Returns the FLOPs of a layer's products with weights, forward."""
    return 2 * layer.tokens * layer.weights / layer.size


def _layer_bytes(layer: Layer) -> float:
    """Returns what a layer's forward pass reads and writes between its products."""
    gates = 2 if layer.model.mlp == "gated" else 1
    # Rotations are computed in float32, on arrays that kernels want transposed.
    passes = 8 * layer.padding if layer.model.positions == "rope" else 2
    heads = passes * (layer.query + 2 * layer.keys)
    return 8 * layer.residual + (gates + 1) * layer.inner + heads


def _attention_seconds(
    layer: Layer, subject: Subject, *, forward: int, backward: int
) -> float:
    """Returns the seconds of a layer's attention, so often forward and backward."""
    chip, model = subject.target.chip, layer.model
    if layer.kernel == "xla":
        passes = forward * _FORWARD_PASSES + backward * _BACKWARD_PASSES
        return passes * layer.scores / (_BANDWIDTH * chip.bandwidth)
    heads = model.heads * model.width_of_head / layer.tensor
    reach = sum(
        min(window or layer.length, layer.length / 2) for window in model.layer_windows
    ) / len(model.layer_windows)
    flops = 4 * layer.tokens * heads * reach * (forward + 2.5 * backward)
    shares = _WIDE_HEADS if model.width_of_head >= 128 else _NARROW_HEADS
    return flops / (shares[chip.platform] * chip.flops)


def _head(subject: Subject, layers: list[Layer]) -> tuple[float, float]:
    """Returns the loss's FLOPs and bytes of a micro-batch: student first."""
    student = layers[0]
    ids = table_size(subject.student) / student.tensor
    widths = [layer.model.width for layer in layers]
    flops = 2 * student.tokens * ids * (3 * widths[0] + sum(widths[1:]))
    size = subject.config.student.train.chunk_size
    size = min(
        size
        or default_size(
            student.tokens, max(widths), int(ids), subject.target.chip.platform
        ),
        student.tokens,
    )
    chunks = -(-student.tokens // size)
    gradient = 8 * ids * widths[0] * chunks  # the sum of the head's, read and written
    heads = student.size * ids * sum(widths) * chunks
    logits = _LOGIT_BYTES * student.tokens * ids * len(layers)
    return flops, gradient + heads + logits


def _update_bytes(subject: Subject) -> float:
    """Returns what the optimiser reads and writes in a step."""
    arrays, micro = stored(subject), subject.config.student.train.micro_batches
    sums = 3 * micro * arrays.parameters if micro > 1 else 0  # of the gradients
    # The new parameters are computed twice: all must be finite before one is taken.
    return 2.0 * (arrays.parameters + arrays.moments) + 5 * arrays.parameters + sums


def assumptions(subject: Subject) -> list[str]:
    """Returns what the times assume, a line each."""
    platform = subject.target.chip.platform
    kernel = layer_of(subject, subject.student).kernel
    wide = subject.student.width_of_head >= 128
    share = (_WIDE_HEADS if wide else _NARROW_HEADS)[platform]
    attention = (
        "attention without a kernel: scores are written and read"
        if kernel == "xla"
        else f"attention by {kernel} at {share:.0%}, masked blocks left out"
    )
    chip = subject.target.chip
    link = "ICI" if chip.dimensions else "NVLink" if chip.link >= _NVLINK else "PCIe"
    found = [
        f"products at {_PRODUCTS[platform]:.0%} of the peak",
        attention,
        f"{_BANDWIDTH:.0%} of the memory's {chip.bandwidth / 1e9:,.0f} GB/s",
        f"{link} at {chip.link / 1e9:.0f} GB/s a direction; transfers hide behind work",
        "MFU counts attention in full and nothing that is computed again",
    ]
    if subject.target.slices > 1:
        rate = chip.network / 1e9
        found.append(f"{rate:.1f} GB/s a host from slice to slice, or host to host")
    return found
