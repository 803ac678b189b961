"""Meshes inside a `shard_map`, which leaves only some axes to those within it."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, get_abstract_mesh
from jax.sharding import PartitionSpec as P


def sharding_here(mesh: Mesh, spec: P) -> NamedSharding:
    """Returns a sharding over those of its axes that no `shard_map` around has taken.

    Args:
        mesh: The device mesh.
        spec: How an array is sharded over all of its axes.
    """
    here = _here(mesh)
    return NamedSharding(here, P(*(_left(part, here) for part in spec)))


def on_each_device(
    function: Callable[..., Any],
    mesh: Mesh,
    in_specs: Any,
    out_specs: Any,
    **options: Any,
) -> Callable[..., Any]:
    """Returns `jax.shard_map` over the axes that none around has taken.

    Args:
        function: Maps each device's parts of the arguments to its part of the result.
        mesh: The device mesh.
        in_specs: How the arguments are sharded over all of its axes.
        out_specs: How the result is.
        **options: Of `jax.shard_map`.
    """
    here = _here(mesh)

    def left(specs: Any) -> Any:
        return jax.tree.map(
            lambda spec: P(*(_left(part, here) for part in spec)),
            specs,
            is_leaf=lambda x: isinstance(x, P),
        )

    return jax.shard_map(
        function,
        mesh=here,
        in_specs=left(in_specs),
        out_specs=left(out_specs),
        axis_names=set(here.axis_names) - set(taken(here)),
        **options,
    )


def taken(mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """Returns the axes of the mesh that a `shard_map` around has taken."""
    return tuple(axis for axis in get_abstract_mesh().manual_axes if axis in mesh.shape)


def _here(mesh: Mesh) -> Any:
    """Returns the mesh, as it is known where this is traced."""
    return get_abstract_mesh() if taken(mesh) else mesh


def _left(part: Any, mesh: Any) -> Any:
    """Returns those of a dimension's axes that are not taken."""
    axes = part if isinstance(part, tuple) else (part,)
    left = tuple(axis for axis in axes if axis and axis not in taken(mesh))
    return left if len(left) > 1 else next(iter(left), None)
