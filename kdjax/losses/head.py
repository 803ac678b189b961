"""What turns hidden states [.., D] into logits [.., V]."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head:
    """A language-model head: logits = softcap(scale * (hidden @ kernel + bias)).

    Attributes:
        kernel: Weights [D, V].
        bias: Optional bias [V].
        scale: Factor on the logits.
        softcap: Optional c, for c * tanh(logits / c) (Gemma 2, arXiv:2408.00118).
        valid: How many ids are real; the others get the logit -inf. None: all.
    """

    kernel: Float[Array, "D V"]
    bias: Float[Array, "V"] | None = None
    scale: float = dataclasses.field(default=1.0, metadata={"static": True})
    softcap: float | None = dataclasses.field(default=None, metadata={"static": True})
    valid: int | None = dataclasses.field(default=None, metadata={"static": True})


def apply_head(
    head: Head, hidden: Float[Array, "*batch D"]
) -> Float[Array, "*batch V"]:
    """Returns the logits, accumulated in float32 whatever the hidden states' dtype."""
    kernel = head.kernel.astype(hidden.dtype)
    logits = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
    if head.bias is not None:
        logits = logits + jnp.broadcast_to(head.bias, logits.shape)
    if head.scale != 1.0:
        logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * jnp.tanh(logits / head.softcap)
    if head.valid is not None and head.valid < logits.shape[-1]:
        ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
        logits = jnp.where(ids < head.valid, logits, -jnp.inf)
    return logits


def common_vocabulary(
    student_logits: Float[Array, "*batch Vs"],
    student_head: Head,
    teacher_logits: Float[Array, "*batch Vt"],
    teacher_head: Head,
) -> tuple[Float[Array, "*batch V"], Float[Array, "*batch V"]]:
    """Returns both logits over the ids that are real in both vocabularies.

    Vocabularies of one tokenizer differ by padding only, so the smaller real size is
    the common one.
    """
    real = min(
        student_head.valid or student_logits.shape[-1],
        teacher_head.valid or teacher_logits.shape[-1],
    )
    return student_logits[..., :real], teacher_logits[..., :real]
