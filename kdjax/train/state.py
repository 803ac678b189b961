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
    """Everything a step updates, and so everything a checkpoint must hold.

    Attributes:
        step: How many steps were taken; schedules read it.
        params: The student's parameters.
        opt_state: The optimiser's state.
    """

    step: Int[Array, ""] | Any  # as a tree of shapes or shardings it holds those
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
        optimizer: What will update them.
        key: What is drawn follows from it.
    """
    return start_state(optimizer, init(key))


def start_state(optimizer: optax.GradientTransformation, params: Any) -> TrainState:
    """Returns the state before the first step of a model that was found."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
