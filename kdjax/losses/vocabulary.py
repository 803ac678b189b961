"""Reductions over a vocabulary, whole or sharded on a mesh axis, and the softmax."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Distribution(NamedTuple):
    """A softmax over the local ids, float32, not yet normalised.

    A formula written in these terms saves one pass over the ids, since it need not wait
    for the total.

    Attributes:
        shifted: The logits minus the largest of them.
        exponentials: The exponentials of `shifted`.
        total: The sum of `exponentials` over all ids.
    """

    shifted: Float[Array, "*batch V"]
    exponentials: Float[Array, "*batch V"]
    total: Float[Array, "*batch"]

    @property
    def logs(self) -> Float[Array, "*batch V"]:
        """The log-probabilities."""
        return self.shifted - jnp.log(self.total)[..., None]

    @property
    def probs(self) -> Float[Array, "*batch V"]:
        """The probabilities; more accurate than exponentials of `logs`."""
        return self.exponentials * (1.0 / self.total)[..., None]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """How to reduce over the last axis, the ids.

    A divergence written with these reductions runs unchanged on logits that hold the
    whole vocabulary and, inside `jax.shard_map`, on slices of it.

    Attributes:
        axis: The mesh axis that the ids are sharded along; None: all ids are local.
    """

    axis: str | None = None

    def sum(self, x: Float[Array, "*batch V"]) -> Float[Array, "*batch"]:
        """Returns the sum over all ids."""
        local = x.sum(-1)
        return local if self.axis is None else lax.psum(local, self.axis)

    def max(self, x: Float[Array, "*batch V"]) -> Float[Array, "*batch"]:
        """Returns the maximum over all ids, without gradient."""
        local = lax.stop_gradient(x).max(-1)
        return local if self.axis is None else lax.pmax(local, self.axis)

    def argmax(self, x: Float[Array, "*batch V"]) -> Int[Array, "*batch"]:
        """Returns the id of the maximum; of several, the smallest."""
        # Two plain reductions: on CPUs `jnp.argmax` is not vectorised.
        is_top = x == self.max(x)[..., None]
        last = jnp.iinfo(jnp.int32).max
        local = jnp.where(is_top, self.ids(x), last).min(-1)
        return local if self.axis is None else lax.pmin(local, self.axis)

    def ids(self, x: Float[Array, "*batch V"]) -> Int[Array, "*batch V"]:
        """Returns each entry's id."""
        local = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
        return local + self.first(x.shape[-1])

    def first(self, size: int) -> int | Int[Array, ""]:
        """Returns the first local id, where every device has `size` of them."""
        return 0 if self.axis is None else lax.axis_index(self.axis) * size

    def size(self, x: Float[Array, "*batch V"]) -> int:
        """Returns how many ids there are on all devices."""
        shards = 1 if self.axis is None else lax.axis_size(self.axis)
        return int(x.shape[-1] * shards)

    def is_label(
        self, x: Float[Array, "*batch V"], labels: Int[Array, "*batch"]
    ) -> Bool[Array, "*batch V"]:
        """Returns where the id is the label; fuses, so that no one-hot is stored."""
        return self.ids(x) == labels[..., None]

    def pick(
        self, x: Float[Array, "*batch V"], labels: Int[Array, "*batch"]
    ) -> Float[Array, "*batch"]:
        """Returns the label's entry."""
        return self.sum(jnp.where(self.is_label(x, labels), x, 0.0))

    def softmax(self, logits: Float[Array, "*batch V"]) -> Distribution:
        """Returns the distribution of float32 logits; an id at -inf has probability 0.

        Where every id is at -inf, all probabilities are 0.
        """
        top = self.max(logits)
        shifted = logits - jnp.where(jnp.isneginf(top), 0.0, top)[..., None]
        exponentials = jnp.exp(shifted)
        total = self.sum(exponentials)
        return Distribution(shifted, exponentials, jnp.where(total == 0.0, 1.0, total))

    def cross_entropy(
        self, q: Distribution, labels: Int[Array, "*batch"]
    ) -> Float[Array, "*batch"]:
        """Returns -log q(label)."""
        return jnp.log(q.total) - self.pick(q.shifted, labels)
