"""What a pass over a batch's tokens computes, on which arrays, and where."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from kdjax.losses.head import Head, check_width
from kdjax.losses.vocabulary import Vocabulary

MAX_PADDING = 1024  # ids by which tables of one tokenizer differ at most


class LossSharding(NamedTuple):
    """How a loss is spread over a mesh: tokens over some axes, ids over another."""

    mesh: Mesh
    tokens: tuple[str, ...] = ("data", "fsdp")
    vocabulary: str = "tensor"


class HeadOptions(NamedTuple):
    """What a head does besides its matrix; see `Head`."""

    scale: float
    softcap: float | None
    real: int


class Plan(NamedTuple):
    """Everything about a pass that is known before it is traced.

    Attributes:
        function: `function(student_logits, teacher_logits, labels, scalars, over)`,
            what is computed per token: a pytree of [N], for `each_gradient` a pair
            whose first item is the loss.
        student: Its head's options.
        teacher: Likewise; None without a teacher.
        chunk_size: Tokens at a time on one device; None: from the memory it takes.
        sharding: Where the work is done; None: not spread.
    """

    function: Callable[..., Any]
    student: HeadOptions
    teacher: HeadOptions | None
    chunk_size: int | None
    sharding: LossSharding | None

    @property
    def over(self) -> Vocabulary:
        """How to reduce over the ids."""
        return Vocabulary(self.sharding.vocabulary if self.sharding else None)


# What follows holds arrays, but also where they go, and None for what there is not.


class Side(NamedTuple):
    """One model's hidden states [.., D], matrix [D, V] and bias [1, V]."""

    hidden: Any
    kernel: Any
    bias: Any


class Inputs(NamedTuple):
    """What a pass reads; both matrices have the same number of ids."""

    student: Side
    teacher: Side | None
    labels: Any
    weights: Any
    scalars: Any


def prepare(
    function: Callable[..., Any],
    student: tuple[Array, Head],
    teacher: tuple[Array, Head] | None,
    labels: Array,
    weights: Array | None,
    scalars: dict[str, Array],
    chunk_size: int | None,
    sharding: LossSharding | None,
) -> tuple[Plan, Inputs]:
    """Returns the plan and its arrays, the heads brought to one number of ids.

    Raises:
        ValueError: Hidden states and head differ in width, arrays in the tokens they
            are for, or the vocabularies by more than padding.
    """
    if sharding is not None and sharding.mesh.size == 1:
        sharding = None
    sides = [side for side in (student, teacher) if side is not None]
    for hidden, head in sides:
        check_width(head, hidden)
    heads = [head for _, head in sides]
    _check_vocabularies([head.real for head in heads])
    _check_tokens(labels, [hidden for hidden, _ in sides], weights)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1; it is {chunk_size}")
    if weights is not None:
        weights = weights.astype(jnp.float32)
    shards = 1 if sharding is None else sharding.mesh.shape[sharding.vocabulary]
    sizes = {head.kernel.shape[1] for head in heads}
    size = sizes.pop()
    if sizes or size % shards:
        size = -(-max(head.real for head in heads) // shards) * shards

    def side(hidden: Array, head: Head) -> Side:
        bias = None if head.bias is None else _fit(head.bias[None], size)
        return Side(hidden, _fit(head.kernel, size), bias)

    options = [HeadOptions(head.scale, head.softcap, head.real) for head in heads]
    plan = Plan(
        function,
        options[0],
        options[1] if teacher is not None else None,
        chunk_size,
        sharding,
    )
    other = None if teacher is None else jax.lax.stop_gradient(side(*teacher))
    return plan, Inputs(side(*student), other, labels, weights, scalars)


def _check_vocabularies(sizes: list[int]) -> None:
    if max(sizes) - min(sizes) > MAX_PADDING:
        student, teacher = sizes
        raise ValueError(
            f"the student's {student} ids and the teacher's {teacher} are not one "
            "vocabulary with different padding; both must share a tokenizer"
        )


def _check_tokens(labels: Array, hidden: list[Array], weights: Array | None) -> None:
    shapes = [x.shape[:-1] for x in hidden] + (
        [] if weights is None else [weights.shape]
    )
    if labels.size == 0 or any(shape != labels.shape for shape in shapes):
        listed = ", ".join(map(str, shapes))
        raise ValueError(
            f"labels {labels.shape} must be for the same tokens, at least one, as "
            f"hidden states and weights ({listed})"
        )


def _fit(x: Float[Array, "D V"], size: int) -> Float[Array, "D W"]:
    """Returns the matrix with ids cut off or zeros added, which the mask hides."""
    missing = size - x.shape[1]
    return jnp.pad(x, ((0, 0), (0, missing))) if missing > 0 else x[:, :size]


def narrow(inputs: Inputs) -> Inputs:
    """Returns the inputs with the matrices in the hidden states' precision."""

    def cast(side: Side) -> Side:
        return side._replace(kernel=side.kernel.astype(side.hidden.dtype))

    teacher = inputs.teacher
    return inputs._replace(
        student=cast(inputs.student),
        teacher=None if teacher is None else cast(teacher),
    )
