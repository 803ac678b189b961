"""Loads pretrained models: a checkpoint's tensors, sharded over the mesh."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
)
from jax.typing import ArrayLike

from kdjax.checkpoints.hf.families import Family
from kdjax.checkpoints.hf.layouts import Sizes
from kdjax.checkpoints.hf.matching import (
    Source,
    file_sizes,
    match,
    parameter_shapes,
)
from kdjax.config.architecture import ModelConfig
from kdjax.config.schema import Rules
from kdjax.core.errors import UsageError
from kdjax.core.logging import Progress
from kdjax.formats.safetensors import Index, Stored
from kdjax.models.model import Model, Params, build
from kdjax.parallel.placement import name_of
from kdjax.parallel.sharding import make_placement, shardings

_ALIGNMENT = 64  # bytes, as XLA requires of host memory that it adopts without a copy


def load_tensors(
    family: Family,
    config: ModelConfig,
    tensors: Mapping[str, Stored],
    *,
    source: str,
    mesh: Mesh | None,
    rules: Rules,
    dtype: str | None,
) -> tuple[Model, Params]:
    """Returns the model whose tensors a checkpoint holds, and its parameters.

    Every process reads the bytes of its own shards only. Nothing is returned unless
    everything is valid.

    Args:
        family: Says which tensor holds which parameter.
        config: The architecture.
        tensors: The checkpoint's tensors by name.
        source: The checkpoint's name beside the progress bar.
        mesh: The devices for the parameters; None: the first device.
        rules: Sharding rules that take precedence over the default ones.
        dtype: Of parameters and computation. None: parameters as stored, and
            computation in bfloat16 if all are stored in it, else in float32.

    Raises:
        UsageError: A tensor is missing, unexpected, wrongly shaped or not finite.
    """
    sources = match(family, config, tensors)
    stored = {tensor.dtype for s in sources.values() for tensor in s.stored}
    is_narrow = dtype == "bfloat16" if dtype else stored == {jnp.dtype(jnp.bfloat16)}
    computed: Literal["float32", "bfloat16"] = "bfloat16" if is_narrow else "float32"
    config = dataclasses.replace(config, dtype=computed)
    placement = make_placement(mesh, rules) if mesh is not None else None
    model = build(config, placement=placement)
    params = _place(sources, config, mesh, rules, dtype, source)
    _check_finite(params, sources, mesh)
    return model, params


def _place(
    sources: Mapping[str, Source],
    config: ModelConfig,
    mesh: Mesh | None,
    rules: Rules,
    dtype: str | None,
    name: str,
) -> Params:
    """Returns the parameters on their devices."""
    shapes = parameter_shapes(config)
    placed = shardings(shapes, mesh, rules)
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    is_first = jax.process_index() == 0
    with Progress(
        f"loading {name}", total, unit="parameter", enabled=is_first
    ) as progress:

        def one_of(path: Any, leaf: jax.ShapeDtypeStruct, where: Sharding) -> jax.Array:
            source = sources[name_of(path)]
            made = _make(source, leaf.shape, where, file_sizes(config), dtype)
            progress.update(leaf.size)
            return made

        return jax.tree_util.tree_map_with_path(one_of, shapes, placed)


def _make(
    source: Source,
    shape: tuple[int, ...],
    sharding: Sharding,
    sizes: Sizes,
    dtype: str | None,
) -> jax.Array:
    """Returns one parameter; this process reads only its own shards."""
    # Layers may differ in dtype; the widest holds them all.
    widest = jnp.result_type(*(one.dtype for one in source.stored))
    precision = jnp.dtype(dtype or widest)
    if not source.is_stacked or _lies_on_host():
        return _assemble(source, shape, sharding, sizes, precision)
    # On an accelerator, the host needs to hold only one layer at a time.
    by_row = sharding
    if isinstance(sharding, NamedSharding):
        by_row = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    put = jax.jit(_put, donate_argnums=0, out_shardings=sharding)
    whole = jnp.zeros(shape, precision, device=sharding)
    for layer, stored in enumerate(source.stored):
        one = source._replace(stored=(stored,), is_stacked=False)
        row = _assemble(one, shape[1:], by_row, sizes, precision)
        whole = jax.block_until_ready(put(whole, row, layer))
    return whole


def _assemble(
    source: Source,
    shape: tuple[int, ...],
    sharding: Sharding,
    sizes: Sizes,
    precision: Any,
) -> jax.Array:
    """Returns an array; this process holds all its own shards on the host at once."""
    pieces: dict[tuple[tuple[int, int], ...], np.ndarray] = {}

    def piece(index: Index | None) -> np.ndarray:
        assert index is not None  # None is for scalars, which no model has
        bounds = [where.indices(size) for where, size in zip(index, shape, strict=True)]
        key = tuple((low, high) for low, high, _ in bounds)
        if key not in pieces:  # replicas share one read
            part = [slice(*pair) for pair in key]
            pieces[key] = _read(source, part, sizes, precision)
        return pieces[key]

    return jax.make_array_from_callback(shape, sharding, piece)


def _lies_on_host() -> bool:
    """Returns whether the devices have no memory of their own."""
    return jax.default_backend() == "cpu"


def _put(whole: jax.Array, row: jax.Array, layer: ArrayLike) -> jax.Array:
    """Returns the stacked parameter with one layer written into it."""
    return jax.lax.dynamic_update_index_in_dim(whole, row, layer, axis=0)


def _read(source: Source, index: list[slice], sizes: Sizes, dtype: Any) -> np.ndarray:
    """Reads a part of a parameter."""
    result = _empty([where.stop - where.start for where in index], dtype)
    layout, stored, rest, rows = source.layout, source.stored, index, result[None]
    if source.is_stacked:
        stored, rest, rows = stored[index[0]], index[1:], result
    for one, row in zip(stored, rows, strict=True):
        layout.read(one.read, tuple(rest), sizes, row)
    return result


def _empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Returns an array aligned so that JAX on a CPU adopts it without a copy."""
    size = math.prod(shape) * jnp.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _check_finite(
    params: Params, sources: Mapping[str, Source], mesh: Mesh | None
) -> None:
    """Raises, naming the tensor, if an element is infinite or NaN.

    The check runs on the devices, so that all processes learn the result.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(_finite(mesh)(params))
    for path, layers in leaves:
        source = sources[name_of(path)]
        for name, is_finite in zip(source.names, np.atleast_1d(layers), strict=True):
            if not is_finite:
                raise UsageError(
                    f"the tensor {name!r} holds infinities, NaNs or numbers too large "
                    "to be added up"
                )


@functools.lru_cache(maxsize=8)
def _finite(mesh: Mesh | None) -> Callable[[Params], Any]:
    """Returns a jitted check of each parameter, per layer, for finiteness."""

    def check(path: Any, x: jax.Array) -> jax.Array:
        is_stacked = path[0].key == "layers"
        # A sum needs no array of booleans, and a valid tensor's does not overflow
        # float32; a maximum can lose a NaN between processes.
        axes = tuple(range(int(is_stacked), x.ndim))
        return jnp.isfinite(jnp.abs(x).sum(axes, dtype=jnp.float32))

    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        functools.partial(jax.tree_util.tree_map_with_path, check),
        out_shardings=everywhere,
    )
