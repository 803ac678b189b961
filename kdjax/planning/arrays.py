"""How many bytes of a tree of arrays each device stores."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from kdjax.config.architecture import ModelConfig
from kdjax.config.schema import OptimizerConfig, Rules
from kdjax.models import build
from kdjax.parallel.sharding import AXES, shardings
from kdjax.planning.resolve import Subject
from kdjax.train.optimizers import make_optimizer
from kdjax.train.state import TrainState, create_state, state_shardings

_LANES, _SUBLANES = 128, 8  # a TPU stores arrays in tiles of so many


class Stored(NamedTuple):
    """Bytes a device of what a step is given, but for the batch."""

    parameters: int
    moments: int
    teachers: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.parameters + self.moments + self.teachers


def stored(subject: Subject) -> Stored:
    """Returns the bytes a device of parameters and optimiser state."""
    student, sizes = subject.config.student, tuple(subject.mesh[a] for a in AXES)
    tiled = subject.target.chip.platform == "tpu"
    state = _state_bytes(
        *(subject.student, student.train.optimizer, student.rules, sizes, tiled)
    )
    teachers = (
        _parameter_bytes(each.model, each.dtype, each.rules, sizes, tiled)
        for each in subject.teachers.values()
    )
    return Stored(*state, sum(teachers))


# A search asks for the same ones again and again.
@functools.lru_cache(maxsize=1024)
def _state_bytes(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    rules: Rules,
    sizes: tuple[int, ...],
    tiled: bool,
) -> tuple[int, int]:
    """Returns a device's bytes of parameters, and of the optimiser's state."""
    shapes = state_shapes(model, optimizer)
    placed = state_shardings(shapes, _mesh(sizes), rules)
    return (
        _bytes(shapes.params, placed.params, tiled),
        _bytes(shapes.opt_state, placed.opt_state, tiled),
    )


@functools.lru_cache(maxsize=1024)
def _parameter_bytes(
    model: ModelConfig, dtype: str, rules: Rules, sizes: tuple[int, ...], tiled: bool
) -> int:
    """Returns a device's bytes of frozen parameters."""
    shapes = parameter_shapes(model, dtype)
    return _bytes(shapes, shardings(shapes, _mesh(sizes), rules), tiled)


@functools.lru_cache(maxsize=64)
def _mesh(sizes: tuple[int, ...]) -> AbstractMesh:
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@functools.lru_cache(maxsize=64)
def state_shapes(model: ModelConfig, optimizer: OptimizerConfig) -> TrainState:
    """Returns the shapes of a train state."""
    create = functools.partial(
        create_state, build(model).init, make_optimizer(optimizer, 2)
    )
    return jax.eval_shape(create, jax.random.key(0))


@functools.lru_cache(maxsize=64)
def parameter_shapes(model: ModelConfig, dtype: str) -> Any:
    """Returns the shapes of a model's parameters in a dtype."""
    shapes = jax.eval_shape(build(model).init, jax.random.key(0))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)


def count_of(model: ModelConfig) -> int:
    """Returns how many parameters a model has, vocabulary padding included."""
    leaves = jax.tree.leaves(parameter_shapes(model, "float32"))
    return sum(leaf.size for leaf in leaves)


def tree_bytes(shapes: Any) -> int:
    """Returns the bytes of a tree's arrays on all devices together."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _bytes(shapes: Any, placed: Any, tiled: bool) -> int:
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(placed), strict=True)
    return sum(
        array_bytes(sharding.shard_shape(leaf.shape), leaf.dtype, tiled)
        for leaf, sharding in pairs
    )


def array_bytes(shape: Sequence[int], dtype: Any, tiled: bool) -> int:
    """Returns the bytes of one array.

    Args:
        shape: Its shape on one device.
        dtype: Its dtype.
        tiled: Whether it is padded to whole tiles of the two dimensions that lose least
            by that, as TPUs store what has no other layout.

    Example:
        >>> array_bytes((12, 192, 12, 64), "bfloat16", tiled=True) / 2**20
        4.5
    """
    size = math.prod(shape) * jnp.dtype(dtype).itemsize
    if not tiled or len(shape) < 2 or not size:
        return size

    def growth(lanes: int, sublanes: int) -> float:
        padded = (-(-lanes // _LANES) * _LANES) * (
            -(-sublanes // _SUBLANES) * _SUBLANES
        )
        return padded / (lanes * sublanes)

    return round(size * min(growth(*pair) for pair in itertools.permutations(shape, 2)))
