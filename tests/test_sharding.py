"""Every array has a place that somebody chose, and a batch arrives whole."""

import dataclasses
import functools
import itertools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from jax.sharding import PartitionSpec as P
from toys import FAMILIES, packed_batch

from kdjax import models
from kdjax.config import MeshConfig, OptimizerConfig
from kdjax.core.compilation import keep_compiled
from kdjax.core.errors import UsageError
from kdjax.parallel.sharding import (
    data_shard,
    make_mesh,
    make_placement,
    shardings,
    to_devices,
)
from kdjax.parallel.topology import arranged
from kdjax.train.optimizers import make_optimizer
from kdjax.train.state import create_state, state_shardings

MESHES = [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)]


def specs(tree, mesh, rules=()):
    """Returns {path: PartitionSpec}."""
    placed, _ = jax.tree_util.tree_flatten_with_path(shardings(tree, mesh, rules))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): sharding.spec
        for path, sharding in placed
    }


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((-1, 2, 2), (2, 2, 2)),
        ((2, -1, 1), (2, 4, 1)),
        ((1, 1, -1), (1, 1, 8)),
        ((4, 2, -1), (4, 2, 1)),
    ],
    ids=str,
)
def test_minus_one_takes_the_devices_that_are_left(sizes, expected):
    mesh = make_mesh(MeshConfig(*sizes))
    assert tuple(mesh.shape.values()) == expected
    assert mesh.axis_names == ("data", "fsdp", "tensor")


class Chip(NamedTuple):
    """What is asked of a TPU's chip to find its neighbours."""

    id: int
    coords: tuple[int, ...]
    slice_index: int
    device_kind: str
    core_on_chip: int = 0
    platform: str = "tpu"


def torus(kind, shape, slices=1):
    """Returns the chips of slices, as `jax.devices()` would."""
    places = [*itertools.product(*map(range, shape))]
    chips = [(n, place) for n in range(slices) for place in places]
    return [
        Chip(id, place[::-1], number, kind) for id, (number, place) in enumerate(chips)
    ]


@pytest.mark.parametrize(
    ("kind", "shape", "slices", "meshes"),
    [
        ("TPU v5 lite", (1, 16, 16), 1, [(1, 256, 1), (1, 64, 4), (16, 16, 1)]),
        ("TPU v6 lite", (1, 16, 16), 1, [(2, 128, 1), (1, 32, 8), (4, 8, 8)]),
        ("TPU v5", (4, 4, 4), 1, [(1, 64, 1), (2, 32, 1), (1, 32, 2), (1, 8, 8)]),
        ("TPU v5", (4, 4, 4), 2, [(2, 64, 1), (1, 128, 1), (4, 8, 4)]),
        ("TPU v5", (2, 2, 1), 4, [(1, 16, 1), (2, 8, 1), (8, 1, 2)]),
    ],
)
def test_every_mesh_that_multiplies_fits_tori_and_slices(kind, shape, slices, meshes):
    chips = torus(kind, shape, slices)
    for sizes in meshes:
        found = arranged(sizes, [Chip(*chip) for chip in chips])
        assert found.shape == sizes
        assert {chip.id for chip in found.ravel()} == set(range(len(chips)))
        # What is exchanged within a layer never leaves a slice.
        rows = found.reshape(-1, sizes[2])
        assert all(len({chip.slice_index for chip in row}) == 1 for row in rows)
        if slices > 1 and sizes[0] % slices == 0:
            parts = np.split(found, slices)
            assert all(len({c.slice_index for c in p.ravel()}) == 1 for p in parts)


def test_several_cpu_devices_take_no_program_from_a_cache(tmp_path):
    """They would wait for each other for ever."""
    before = jax.config.jax_enable_compilation_cache
    try:
        keep_compiled(epath.Path(tmp_path))
        assert not jax.config.jax_enable_compilation_cache
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def test_slices_that_divide_no_axis_are_refused():
    with pytest.raises(UsageError, match=r"over 4 slices .* must divide config.mesh"):
        arranged((1, 2, 8), torus("TPU v5", (2, 2, 1), 4))


@pytest.mark.parametrize("sizes", [(3, 1, -1), (16, 1, -1), (2, 2, 1), (8, 2, 1)])
def test_a_mesh_that_does_not_fit_is_refused_with_its_sizes(sizes):
    with pytest.raises(UsageError, match=f"data={sizes[0]}.*8 cpu device"):
        make_mesh(MeshConfig(*sizes))


@functools.cache
def state_shapes(config, optimizer="adamw"):
    transform = make_optimizer(OptimizerConfig(name=optimizer), steps=10)
    create = functools.partial(create_state, models.build(config).init, transform)
    return jax.eval_shape(create, jax.random.key(0))


def wide(name):
    """Returns the family's point with sizes that 8 devices can cut."""
    return dataclasses.replace(
        FAMILIES[name], width=64, heads=8, kv_heads=8, ffn_width=64
    )


@pytest.mark.parametrize("shape", MESHES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_matrix_has_a_rule_and_is_cut_by_it(name, shape):
    mesh = make_mesh(MeshConfig(*shape))
    for path, spec in specs(state_shapes(wide(name)).params, mesh).items():
        is_vector = path.endswith(("scale", "norm/bias", "out/bias", "down/bias"))
        assert any(spec) != is_vector, path


@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_moments_lie_where_their_parameters_do(optimizer):
    mesh = make_mesh(MeshConfig(2, 2, 2))
    placed = state_shardings(state_shapes(wide("neox"), optimizer), mesh)
    for moment in ("mu", "nu") if optimizer == "adamw" else ("mu",):
        assert optax.tree.get(placed.opt_state, moment) == placed.params
    assert placed.step.spec == P()


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8)])
def test_a_matrix_without_a_rule_is_refused_by_name(shape):
    tree = {"layers": {"strange": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}}}
    mesh = make_mesh(MeshConfig())
    with pytest.raises(UsageError, match="layers/strange/kernel"):
        shardings(tree, mesh)
    assert specs(tree, mesh, (("strange", ()),)) == {"layers/strange/kernel": P()}


def test_a_dimension_that_does_not_divide_is_refused_by_parameter_and_axis():
    params = state_shapes(
        dataclasses.replace(wide("llama"), heads=4, kv_heads=4)
    ).params
    with pytest.raises(UsageError, match=r"attention/.*mesh\.tensor = 8: 4 is not"):
        shardings(params, make_mesh(MeshConfig(1, 1, 8)))


def test_an_axis_that_the_mesh_lacks_is_refused_by_name():
    params = state_shapes(wide("llama")).params
    rules = ((r"embed/tokens$", ("model", None)),)
    with pytest.raises(UsageError, match=r"embed/tokens.*'model'.*data, fsdp, tensor"):
        shardings(params, make_mesh(MeshConfig()), rules)


def test_the_user_s_rules_go_first_and_the_first_of_them_wins():
    params = state_shapes(wide("llama")).params
    mesh = make_mesh(MeshConfig(2, 2, 2))
    rules = (("embed/tokens$", (None, "data")), ("embed", ("data", None)))
    found, default = specs(params, mesh, rules), specs(params, mesh)
    assert found.pop("embed/tokens") == P(None, "data")
    assert default.pop("embed/tokens") == P("tensor", "fsdp")
    assert found == default


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_a_batch_reaches_the_devices_whole_and_in_order(shape):
    mesh = make_mesh(MeshConfig(*shape))
    batch = packed_batch(16, 12, 50)
    shard = data_shard(mesh, 16)
    assert shard == (tuple(range(16)), 16)  # a single process feeds everything
    placed = to_devices(batch, mesh, shard)
    for name, rows in batch.items():
        np.testing.assert_array_equal(placed[name], rows)
        assert placed[name].sharding.spec == P(("data", "fsdp"))
        pieces = {piece.data.shape for piece in placed[name].addressable_shards}
        assert pieces == {(16 // (shape[0] * shape[1]), 12)}


@pytest.mark.parametrize(("length", "piece"), [(3, (2, 3, 5)), (4, (2, 2, 5))])
def test_residuals_are_sharded_along_batch_and_length_where_it_divides(length, piece):
    placement = make_placement(make_mesh(MeshConfig(2, 2, 2)))
    residual = jax.jit(placement.activation)(jnp.zeros((8, length, 5)))
    assert residual.addressable_shards[0].data.shape == piece
    read = jax.jit(placement.gather)(residual)
    assert read.addressable_shards[0].data.shape == (2, length, 5)
    single = jnp.zeros((1, length, 5))
    assert jax.jit(placement.activation)(single).shape == single.shape


@pytest.mark.parametrize("shape", MESHES, ids=str)
@pytest.mark.parametrize("length", [8, 5])
def test_tokens_are_looked_up_in_shards_of_a_table_that_no_device_gathers(
    shape, length
):
    mesh = make_mesh(MeshConfig(*shape))
    lookup = make_placement(mesh).lookup
    rng = np.random.default_rng(0)
    table = rng.normal(size=(128, 64)).astype(np.float32)
    weights = rng.normal(size=(8, length, 64)).astype(np.float32)
    tokens = rng.integers(0, 128, (8, length), dtype=np.int32)
    placed = jax.device_put(
        table, shardings({"embed": {"tokens": table}}, mesh)["embed"]["tokens"]
    )
    batch = to_devices({"tokens": tokens}, mesh, data_shard(mesh, 8))["tokens"]

    def weighed(table):
        rows = lookup("embed/tokens", table, batch, jnp.float32)
        return (weights * rows).sum(), rows

    program = jax.jit(jax.grad(weighed, has_aux=True)).lower(placed).compile()
    gradient, rows = program(placed)
    np.testing.assert_array_equal(rows, table[tokens])
    expected = np.zeros_like(table)
    np.add.at(expected, tokens, weights)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)
    assert not re.search(r"\[128,64\]\S* all-gather", program.as_text())


@pytest.mark.parametrize(("ids", "is_cut"), [(1000, True), (1001, False)])
def test_logits_of_real_ids_alone_are_gathered_only_where_no_axis_divides_them(
    ids, is_cut
):
    mesh = make_mesh(MeshConfig(2, 2, 2))
    config = dataclasses.replace(FAMILIES["gpt2"], vocab_size=ids)
    model = models.build(config, placement=make_placement(mesh))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.jit(model.init, out_shardings=shardings(shapes, mesh))(
        jax.random.key(0)
    )
    tokens = np.arange(64, dtype=np.int32).reshape(8, 8)
    batch = to_devices({"tokens": tokens}, mesh, data_shard(mesh, 8))
    program = jax.jit(model.logits).lower(params, batch["tokens"]).compile()
    found = program(params, batch["tokens"])
    whole = jax.tree.map(jnp.array, jax.device_get(params))
    expected = models.build(config).logits(whole, jnp.array(tokens))
    assert found.shape == (8, 8, ids)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    gathered = re.findall(r"\[2,8,(1\d{3})\]\S* all-gather", program.as_text())
    assert bool(gathered) is not is_cut
    assert (found.sharding.spec[-1] == "tensor") is is_cut
