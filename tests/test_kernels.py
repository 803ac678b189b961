"""Attention by blocks is the attention of XLA, and makes no [T, T] array."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import FAMILIES, assert_close, equations, random_params

from kdjax import models
from kdjax.config import MeshConfig
from kdjax.models.transformer.attention import causal_mask
from kdjax.models.transformer.splash import attend_blockwise
from kdjax.parallel.sharding import make_mesh, make_placement, shardings

RNG = np.random.default_rng(0)


def segments(rows, length):
    """Returns documents of random lengths, and padding at the end of some rows."""
    found = np.sort(RNG.integers(0, 4, (rows, length)))[:, ::-1]
    return jnp.array(np.where(found > 0, 4 - found, 0), jnp.int32)


def plainly(query, key, value, ids, scale, softcap, window):
    """Returns attention as it is written in books."""
    times = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(x, times, axis=2) for x in (key, value))
    scores = jnp.einsum("bthk,bshk->bhts", query, key) * scale
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    place = jnp.arange(query.shape[1])
    near = place[:, None] - place[None] < (window or len(place))
    seen = causal_mask(ids) & near[None, None]
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
    return jnp.einsum("bhts,bshk->bthk", weights, value)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("length", "width", "heads", "softcap", "window"),
    [
        (300, 16, 2, 3.0, 70),  # three blocks, the last one not full
        pytest.param(128, 64, 4, 0.0, 0, marks=SLOW),
        pytest.param(200, 32, 1, 5.0, 0, marks=SLOW),
        pytest.param(384, 80, 2, 0.0, 128, marks=SLOW),
        pytest.param(1030, 128, 2, 0.0, 0, marks=SLOW),
        pytest.param(600, 64, 2, 3.0, 2, marks=SLOW),
    ],
)
def test_it_attends_as_books_say_forwards_and_backwards(
    length, width, heads, softcap, window
):
    ids = segments(2, length)
    shapes = ((2, length, n, width) for n in (4, heads, heads, 4))
    *arrays, weights = (jnp.array(RNG.normal(size=s), jnp.float32) for s in shapes)
    options = {"scale": width**-0.5, "softcap": softcap, "window": window}

    def outcome(attend):
        def loss(*arrays):
            mixed = attend(*arrays, ids, **options)
            return (mixed * weights).sum(), mixed

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)

    def by_kernel(*arrays, **options):
        return attend_blockwise(*arrays, interpret=True, **options)

    (_, mixed), gradients = outcome(by_kernel)
    (_, expected), wanted = outcome(plainly)
    assert_close(mixed, expected, 2e-6)
    assert_close(gradients, wanted, 1e-5)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("gemma2", (2, 2, 2)),
        pytest.param("gemma3", (1, 8, 1), marks=SLOW),
        pytest.param("llama", (4, 2, 1), marks=SLOW),
    ],
)
def test_a_model_s_gradients_on_a_mesh_are_those_without_it(name, sizes):
    rows, length = math.prod(sizes[:2]), 150
    mesh = make_mesh(MeshConfig(*sizes))
    config = dataclasses.replace(FAMILIES[name], layers=2, max_length=256)
    tokens = jnp.arange(rows * length).reshape(rows, length) % config.vocab_size
    ids = segments(rows, length)

    def gradients(placement, **changes):
        model = models.build(
            dataclasses.replace(config, **changes), placement=placement
        )
        params = random_params(model)

        def loss(params, tokens, ids):
            return jnp.square(model.hidden(params, tokens, ids) - 0.3).mean()

        step = jax.value_and_grad(loss)
        where = shardings(params, mesh if placement else None)
        shown = jax.make_jaxpr(step)(params, tokens, ids)
        squares = [
            tuple(out.aval.shape)
            for equation in equations(shown.jaxpr)
            for out in equation.outvars
            if tuple(out.aval.shape)[-2:] == (length, length)
        ]
        return jax.jit(step)(jax.device_put(params, where), tokens, ids), squares

    wanted, squares = gradients(None)
    assert squares  # what is looked for below would be found
    placement = make_placement(mesh)
    found, squares = gradients(placement, attention="splash", remat="context")
    assert_close(found, wanted, 2e-5)
    assert not squares


def test_for_a_tpu_the_kernel_is_chosen_and_no_mask_is_lowered():
    mesh, length = make_mesh(MeshConfig(2, 2, 2)), 320
    placement = make_placement(mesh)
    on_tpu = placement.devices._replace(platform="tpu")
    config = dataclasses.replace(FAMILIES["gemma2"], layers=2)
    rows = jax.ShapeDtypeStruct((4, length), jnp.int32)

    def lowered(devices):
        model = models.build(config, placement=placement._replace(devices=devices))

        def loss(params, tokens, ids):
            return jnp.square(model.hidden(params, tokens, ids)).mean()

        params = jax.eval_shape(model.init, jax.random.key(0))
        traced = jax.jit(jax.grad(loss)).trace(params, rows, rows)
        return traced.lower(lowering_platforms=("tpu",)).as_text()

    squares = [f"{size}x{size}x" for size in (length, 384, 512)]
    plain, text = lowered(placement.devices), lowered(on_tpu)
    assert squares[0] in plain and "tpu_custom_call" not in plain
    assert "tpu_custom_call" in text
    assert not [square for square in squares if square in text]
