"""What turns hidden states [.., D] into logits [.., V]."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses.vocabulary import Vocabulary


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head:
    """A language-model head: logits = softcap(scale * (hidden @ kernel + bias)).

    Attributes:
        kernel: Weights [D, V].
        bias: Optional bias [V].
        scale: Factor on the logits.
        softcap: Optional c, for c * tanh(logits / c) (Gemma 2, arXiv:2408.00118).
        valid: How many ids are real; the others, from there on, are padding. None: all
            of them.
    """

    kernel: Float[Array, "D V"] | Any  # or another leaf, in a tree of other things
    bias: Float[Array, "V"] | Any | None = None
    scale: float = dataclasses.field(default=1.0, metadata={"static": True})
    softcap: float | None = dataclasses.field(default=None, metadata={"static": True})
    valid: int | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def real(self) -> int:
        """How many ids are real."""
        size = self.kernel.shape[-1]
        return size if self.valid is None else min(self.valid, size)


def apply_head(
    head: Head, hidden: Float[Array, "*batch D"]
) -> Float[Array, "*batch V"]:
    """Returns the logits of the real ids, V of them, without any padding.

    They are accumulated in float32 whatever the hidden states' dtype. Over a mesh that
    shards ids they stay sharded if it divides V, and else are gathered.

    Raises:
        ValueError: The hidden states and the head differ in width.
    """
    check_width(head, hidden)
    return head_logits(narrow(head, hidden.dtype), hidden)[..., : head.real]


def padded_logits(
    head: Head, hidden: Float[Array, "*batch D"]
) -> Float[Array, "*batch P"]:
    """Returns `apply_head` as wide as the head's matrix; padding has the logit -inf.

    Raises:
        ValueError: The hidden states and the head differ in width.
    """
    check_width(head, hidden)
    logits = head_logits(narrow(head, hidden.dtype), hidden)
    return mask(logits, head.real, Vocabulary())


def head_logits(
    head: Head, hidden: Float[Array, "*batch D"]
) -> Float[Array, "*batch V"]:
    """Returns the logits of all ids, padding included; both share one dtype."""
    raw = project(hidden, head.kernel, head.bias)
    return finish(raw, head.scale, head.softcap)


def narrow(head: Head, dtype: Any) -> Head:
    """Returns the head with its matrix in another precision."""
    return dataclasses.replace(head, kernel=head.kernel.astype(dtype))


def fit(head: Head, size: int) -> Head:
    """Returns the head resized to `size` ids; the real ids stay the same."""

    def resize(x: Array) -> Array:
        missing = size - x.shape[-1]
        if missing <= 0:
            return x[..., :size]
        return jnp.pad(x, (*((0, 0),) * (x.ndim - 1), (0, missing)))

    bias = None if head.bias is None else resize(head.bias)
    kernel = resize(head.kernel)
    return dataclasses.replace(head, kernel=kernel, bias=bias, valid=head.real)


def check_width(head: Head, hidden: Float[Array, "*batch D"]) -> None:
    """Raises unless the head reads hidden states of this width."""
    if head.kernel.shape[0] != hidden.shape[-1]:
        raise ValueError(
            f"hidden states {hidden.shape} are {hidden.shape[-1]} wide; their head "
            f"{head.kernel.shape} reads {head.kernel.shape[0]}"
        )


def project(
    hidden: Float[Array, "*batch D"],
    kernel: Float[Array, "D V"],
    bias: Float[Array, "... V"] | None,
) -> Float[Array, "*batch V"]:
    """Returns hidden @ kernel + bias in float32."""
    logits = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
    return logits if bias is None else logits + jnp.broadcast_to(bias, logits.shape)


def finish(
    logits: Float[Array, "*batch V"], scale: float, softcap: float | None
) -> Float[Array, "*batch V"]:
    """Returns scaled and soft-capped logits."""
    if scale != 1.0:
        logits = logits * scale
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def mask(
    logits: Float[Array, "*batch V"], real: int, over: Vocabulary
) -> Float[Array, "*batch V"]:
    """Returns the logits with -inf for the ids from `real` on."""
    if real >= over.size(logits):
        return logits
    return jnp.where(over.ids(logits) < real, logits, -jnp.inf)
