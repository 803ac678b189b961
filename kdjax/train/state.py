"""What training changes: one frozen pytree."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step updates, and thus everything a checkpoint must hold.

    Attributes:
        step: The number of steps taken; schedules read it.
        params: The student's parameters.
        opt_state: The optimiser's state.
    """

    step: Int[Array, ""] | Any  # or, in a tree of shapes or shardings, one of those
    params: Any
    opt_state: Any


def create_state(
    init: Callable[[jax.Array], Any],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
) -> TrainState:
    """Returns the state before the first step; call it under `jit` or `eval_shape`.

    Args:
        init: From a key to new parameters.
        optimizer: The optimiser that will update them.
        key: Determines what is drawn.
    """
    return start_state(optimizer, init(key))


def start_state(optimizer: optax.GradientTransformation, params: Any) -> TrainState:
    """Returns the state before the first step, with given parameters."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
