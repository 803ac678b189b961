"""Where arrays live: the mesh, rules by parameter path, and batches across processes.

Models are unaware of the mesh. A parameter's path (``layers/mlp/up/kernel``) is matched
against an ordered table of regular expressions. Paths of the optimiser's moments end in
the same way, so they get the same placement.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    SingleDeviceSharding,
)
from jax.sharding import PartitionSpec as P

from kdjax.config.schema import MeshConfig, Rules
from kdjax.core.errors import UsageError
from kdjax.parallel.lookup import look_up
from kdjax.parallel.manual import is_free, on_each_device, sharding_here
from kdjax.parallel.placement import Devices, Placement, name_of
from kdjax.parallel.topology import arranged

Batch = dict[str, jax.Array]  # tokens and their annotations, rows first
AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
BATCH = P(BATCH_AXES)

# First match wins. Leading None: the layer axis of scanned blocks.
DEFAULT_RULES: Rules = (
    (r"embed/tokens$", ("tensor", "fsdp")),
    (r"embed/positions$", (None, "fsdp")),
    (r"attention/(query|key|value)/kernel$", (None, "fsdp", "tensor", None)),
    (r"attention/(query|key|value)/bias$", (None, "tensor", None)),
    (r"attention/out/kernel$", (None, "tensor", None, "fsdp")),
    (r"mlp/(up|gate)/kernel$", (None, "fsdp", "tensor")),
    (r"mlp/(up|gate)/bias$", (None, "tensor")),
    (r"mlp/down/kernel$", (None, "tensor", "fsdp")),
    (r"head/kernel$", ("fsdp", "tensor")),
    (r"(scale|bias)$", ()),
)


def barrier(name: str) -> None:
    """Waits until all processes have reached this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh over devices, with -1 filled in.

    Args:
        config: The size of each axis.
        devices: All of them; None: all that jax has.

    Raises:
        UsageError: The product of the axes is not the number of devices, or they cannot
            be laid over several slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(config, len(devices), devices[0].platform)
    # Explicit, because jax's default has changed before, and Linen needs Auto.
    types = (AxisType.Auto,) * len(AXES)
    return Mesh(arranged(sizes, devices), AXES, axis_types=types)


def axis_sizes(config: MeshConfig, count: int, kind: str) -> list[int]:
    """Returns the size of each of `AXES`, with -1 filled in.

    Args:
        config: The size of each axis.
        count: The number of devices.
        kind: What they are, for the message.

    Raises:
        UsageError: The product of the axes is not the number of devices.
    """
    sizes = [getattr(config, axis) for axis in AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    sizes = [count // fixed if size == -1 else size for size in sizes]
    if math.prod(sizes) != count:
        wanted = ", ".join(f"{a}={getattr(config, a)}" for a in AXES)
        raise UsageError(
            f"config.mesh ({wanted}) does not fit {count} {kind} device(s); the axes "
            f"must multiply to {count}"
        )
    return sizes


def shardings(tree: Any, mesh: Mesh | AbstractMesh | None, rules: Rules = ()) -> Any:
    """Returns a sharding for every leaf of a tree of shapes.

    Args:
        tree: Parameters, optimiser state or a train state, as arrays or shapes.
        mesh: The device mesh, or its shape; None places everything on the first device.
        rules: (regular expression, axes) pairs that take precedence over
            `DEFAULT_RULES`.

    Raises:
        UsageError: A matrix matches no rule, or an axis does not divide its dimension.
    """
    if mesh is None:
        first = SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda _: first, tree)

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = name_of(path)
        spec = _spec(name, leaf.ndim, (*rules, *DEFAULT_RULES))
        _check_divides(name, leaf.shape, spec, mesh.shape)
        return NamedSharding(mesh, P(*spec))

    return jax.tree_util.tree_map_with_path(place, tree)


def _spec(name: str, ndim: int, rules: Rules) -> tuple[str | None, ...]:
    for pattern, spec in rules:
        if re.search(pattern, name):
            if len(spec) > ndim:
                raise UsageError(
                    f"the sharding rule {pattern!r} names {len(spec)} dimensions; the "
                    f"parameter {name} has {ndim}"
                )
            return spec
    if ndim >= 2:
        raise UsageError(
            f"no sharding rule matches the parameter {name}; add a pair "
            "(regular expression, axes) to the model's rules"
        )
    return ()


def _check_divides(
    name: str,
    shape: tuple[int, ...],
    spec: tuple[str | None, ...],
    sizes: Mapping[str, int],
) -> None:
    for dimension, axis in zip(shape, spec, strict=False):
        if axis is not None and axis not in sizes:
            raise UsageError(
                f"the sharding rule of {name} names the axis {axis!r}; the mesh has "
                f"{', '.join(sizes)}"
            )
        if axis is not None and dimension % sizes[axis]:
            raise UsageError(
                f"the parameter {name} of shape {shape} cannot be sharded along "
                f"mesh.{axis} = {sizes[axis]}: {dimension} is not divisible by it"
            )


def abstract(tree: Any, shardings: Any) -> Any:
    """Returns the tree of shapes with its shardings, to restore a checkpoint into."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def make_placement(mesh: Mesh, rules: Rules = ()) -> Placement:
    """Returns where activations and weights live while a model runs on the mesh.

    Activations are sharded over the batch and, between a block's products, along their
    length over `tensor`, where it divides that: products gather what they read and
    scatter what they else would reduce (arXiv:2205.05198). Tokens are looked up where
    their embeddings are. Other weights are gathered over `fsdp`, layer by layer, and
    stay sharded over `tensor`: `fsdp` shards what is stored, `tensor` what is computed.
    Left to itself, the partitioner shards products along `fsdp` in both operands, which
    is slow and, with some rules, wrong (jax 0.10.2).
    """

    def rows() -> int:
        return math.prod(mesh.shape[axis] for axis in BATCH_AXES if is_free(axis))

    def placed(x: jax.Array, spec: P) -> jax.Array:
        # `Model.init` traces with one row, which cannot be sharded.
        if x.shape[0] % rows():
            return x
        return jax.lax.with_sharding_constraint(x, sharding_here(mesh, spec))

    def activation(x: jax.Array) -> jax.Array:
        is_cut = x.shape[1] % mesh.shape["tensor"] == 0
        return placed(x, P(BATCH_AXES, "tensor") if is_cut else BATCH)

    def whole(x: jax.Array) -> jax.Array:
        return placed(x, BATCH)

    def weight(path: str, x: jax.Array) -> jax.Array:
        is_layer = path.startswith("layers/")
        spec = _spec(path, x.ndim + is_layer, (*rules, *DEFAULT_RULES))[is_layer:]
        kept = P(*(None if axis in BATCH_AXES else axis for axis in spec))
        return jax.lax.with_sharding_constraint(x, sharding_here(mesh, kept))

    def lookup(path: str, table: jax.Array, tokens: jax.Array, dtype: Any) -> jax.Array:
        is_stored_so = _spec(path, 2, (*rules, *DEFAULT_RULES)) == ("tensor", "fsdp")
        is_sharded = mesh.shape["fsdp"] * mesh.shape["tensor"] > 1
        if is_sharded and is_stored_so and tokens.shape[0] % rows() == 0:
            return look_up(table, tokens, dtype, mesh)
        return weight(path, table).astype(dtype)[tokens]

    def local(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        heads = P(BATCH_AXES, None, "tensor", None)
        return on_each_device(
            function,
            mesh,
            in_specs=(heads, heads, heads, BATCH),
            out_specs=heads,
            check_vma=False,  # kernels do not say along which axes their results vary
        )

    platform = mesh.devices.flat[0].platform
    devices = Devices(platform, rows, mesh.shape["tensor"], local)
    gather, scatter = _turned(whole, activation), _turned(activation, whole)
    return Placement(activation, gather, scatter, weight, lookup, devices)


def _turned(
    there: Callable[[jax.Array], jax.Array], back: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array], jax.Array]:
    """Returns `there`, whose gradient goes `back`: to where the value came from.

    The gradient of a constraint alone is constrained to where the value went.
    """

    @jax.custom_vjp
    def turned(x: jax.Array) -> jax.Array:
        return there(x)

    turned.defvjp(lambda x: (there(x), None), lambda _, gradient: (back(gradient),))
    return turned


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns where the rows of a batch live."""
    return NamedSharding(mesh, BATCH)


class Share(NamedTuple):
    """What a process feeds of a batch.

    Attributes:
        rows: Which rows, in order.
        size: How many the whole batch has.
    """

    rows: tuple[int, ...]
    size: int


def data_shard(mesh: Mesh, batch_size: int) -> Share:
    """Returns the rows that this process's devices hold, and that it must feed.

    This follows from the sharding, not from the process index: where the tensor axis
    spans processes, several of them need the same rows, and where neighbours in the
    network are not neighbours in the batch, a process needs several blocks.
    """
    indices = _indices(batch_sharding(mesh), (batch_size,)).values()
    rows = {row for index in indices for row in range(*index[0].indices(batch_size))}
    return Share(tuple(sorted(rows)), batch_size)


def _indices(
    sharding: NamedSharding, shape: tuple[int, ...]
) -> dict[jax.Device, tuple[slice, ...]]:
    """Returns which part of a global array each of this process's devices holds."""
    found = sharding.addressable_devices_indices_map(shape)
    return {device: index for device, index in found.items() if index is not None}


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh, share: Share) -> Batch:
    """Returns the global batch, given this process's rows of it."""
    sharding = batch_sharding(mesh)
    places = {row: place for place, row in enumerate(share.rows)}

    def place(local: np.ndarray) -> jax.Array:
        shape = (share.size, *local.shape[1:])

        def part(where: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = where[0].indices(share.size)
            low = places[start]  # the rows of one device are neighbours
            return local[(slice(low, low + stop - start), *where[1:])]

        # Not `make_array_from_callback`: the training loop's transfer guard would
        # reject its implicit copies.
        where = _indices(sharding, shape)
        pieces = [jax.device_put(part(i), device) for device, i in where.items()]
        return jax.make_array_from_single_device_arrays(shape, sharding, pieces)

    return {name: place(local) for name, local in batch.items()}
