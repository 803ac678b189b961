"""What training changes: one frozen pytree."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from kdjax.config.schema import Rules
from kdjax.parallel.sharding import shardings


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


def state_shardings(
    shapes: TrainState, mesh: Mesh | AbstractMesh, rules: Rules = ()
) -> TrainState:
    """Returns where a train state lives: an optimiser's moments like their parameters.

    A moment that lacks one of its parameter's dimensions, as Adafactor's do, is sharded
    along the others. All other state is replicated.

    Args:
        shapes: The train state's shapes.
        mesh: The device mesh, or its shape.
        rules: Sharding rules that take precedence over the default ones.

    Raises:
        UsageError: A parameter matches no rule, or cannot be sharded by it.
    """
    params = shardings(shapes.params, mesh, rules)
    specs = {
        path: (leaf.shape, tuple(sharding.spec))
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(shapes.params),
            jax.tree.leaves(params),
            strict=True,
        )
    }

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        # The path of a moment ends with that of its parameter.
        ends = (path[start:] for start in range(len(path)))
        shape, spec = next((specs[end] for end in ends if end in specs), ((), ()))
        return NamedSharding(mesh, P(*_of_part(leaf.shape, shape, spec)))

    return TrainState(
        step=NamedSharding(mesh, P()),
        params=params,
        opt_state=jax.tree_util.tree_map_with_path(place, shapes.opt_state),
    )


def _of_part(
    part: tuple[int, ...], whole: tuple[int, ...], spec: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Returns the axes of an array with all dimensions of another, or all but one."""
    if part == whole:
        return spec
    spec += (None,) * (len(whole) - len(spec))
    for i in range(len(whole)):
        if part == whole[:i] + whole[i + 1 :]:
            return spec[:i] + spec[i + 1 :]
    return ()
