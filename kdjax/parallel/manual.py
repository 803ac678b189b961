"""Meshes inside a `shard_map`, which leaves only some axes to those within it."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, get_abstract_mesh
from jax.sharding import PartitionSpec as P


def is_free(axis: str) -> bool:
    """Returns whether no `shard_map` around has taken an axis of the mesh."""
    return axis not in get_abstract_mesh().manual_axes


def sharding_here(mesh: Mesh, spec: P) -> NamedSharding:
    """Returns a sharding over those of its axes that are free where it is called.

    Args:
        mesh: The device mesh.
        spec: How an array is sharded over all of its axes.
    """
    return NamedSharding(_here(mesh), _free(spec))


def on_each_device(
    function: Callable[..., Any],
    mesh: Mesh,
    in_specs: Any,
    out_specs: Any,
    **options: Any,
) -> Callable[..., Any]:
    """Returns `jax.shard_map` over the axes that are free where it is called.

    Args:
        function: Maps each device's parts of the arguments to its part of the result.
        mesh: The device mesh.
        in_specs: How the arguments are sharded over all of its axes.
        out_specs: How the result is.
        **options: Of `jax.shard_map`.
    """
    return jax.shard_map(
        function,
        mesh=_here(mesh),
        in_specs=jax.tree.map(_free, in_specs),
        out_specs=jax.tree.map(_free, out_specs),
        axis_names={*filter(is_free, mesh.axis_names)},
        **options,
    )


def _here(mesh: Mesh) -> Any:
    """Returns the mesh, as it is known where this is called."""
    return mesh if all(map(is_free, mesh.axis_names)) else get_abstract_mesh()


def _free(spec: P) -> P:
    """Returns the spec without the axes that are taken."""

    def free(part: Any) -> Any:
        if isinstance(part, tuple):
            return tuple(filter(is_free, part)) or None
        return part if part is None or is_free(part) else None

    return P(*map(free, spec))
