"""A layer as one device has it: the sizes of its arrays, and what remat keeps."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from kdjax.config.architecture import ModelConfig
from kdjax.planning.resolve import Subject, kernel_of

_LANES = 128  # of a TPU: kernels pad narrower heads to it


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


class Policy(NamedTuple):
    """What `remat` keeps of a layer's forward pass, and what backward computes again.

    Attributes:
        kept: Bytes, beside the layer's input.
        products: The share of the layer's products that are computed again.
        attention: Whether attention is.
        gathers: Whether weights are gathered again, rather than kept.
    """

    kept: Callable[[Layer], float]
    products: float
    attention: bool
    gathers: bool


POLICIES = {
    "none": Policy(lambda x: x.everything - x.residual, 0.0, False, False),
    "block": Policy(lambda x: 0.0, 1.0, True, True),
    "context": Policy(lambda x: x.context, 1.0, False, True),
    "dots": Policy(lambda x: x.products, 0.0, True, True),
}


def layer_of(subject: Subject, model: ModelConfig) -> Layer:
    """Returns a layer of one of the subject's models, on one device."""
    train, length = subject.config.student.train, subject.config.data.length
    rows = train.batch_size // train.micro_batches
    mesh, platform = subject.mesh, subject.target.chip.platform
    kernel = kernel_of(subject, model)
    tokens = rows * length // subject.batch_shards
    return Layer(model, tokens, length, kernel, mesh["tensor"], platform == "tpu")
