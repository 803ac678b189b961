"""Every optimiser does what its paper says, and its state lies where parameters do."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import FAMILIES, packed_batch, random_params

from kdjax import losses, models
from kdjax.config import MeshConfig, ModelConfig, OptimizerConfig
from kdjax.core.errors import UsageError
from kdjax.parallel.sharding import (
    data_shard,
    make_mesh,
    make_placement,
    to_devices,
)
from kdjax.train.learner import whole_model
from kdjax.train.objective import hard_labels
from kdjax.train.optimizers import OPTIMIZERS, make_optimizer
from kdjax.train.state import create_state, start_state, state_shardings
from kdjax.train.step import make_train_step
from kdjax.train.task import next_token_task

STEADY = {"warmup_fraction": 0.0, "decay": "constant", "clip": 1e9}
# 128 is the least dimension that Adafactor factors.
WIDE = ModelConfig(layers=2, width=128, heads=8, ffn_width=256, vocab_size=256)
TINY = ModelConfig(layers=2, width=32, heads=4, vocab_size=60, tie_embeddings=False)


def trajectory(optimizer, params, seed=0, steps=3):
    """Returns the parameters after some steps along random gradients."""
    state, step = optimizer.init(params), jax.jit(optimizer.update)
    for number in range(steps):
        key = jax.random.fold_in(jax.random.key(seed), number)
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        grads = [
            jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)
        ]
        updates, state = step(jax.tree.unflatten(tree, grads), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adamw", optax.adamw(0.01, 0.9, 0.98, weight_decay=0.0)),
        ("lion", optax.lion(0.01, 0.9, 0.98, weight_decay=0.0)),
        ("adafactor", optax.adafactor(0.01)),
        ("sgd", optax.sgd(0.01, 0.95, nesterov=True)),
    ],
)
def test_without_weight_decay_they_are_optax_s(name, expected):
    params = random_params(models.build(WIDE))
    config = OptimizerConfig(name, 0.01, weight_decay=0.0, **STEADY)
    found = trajectory(make_optimizer(config, 10), params)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7),
        found,
        trajectory(expected, params),
    )


@functools.cache
def muon_s_first_update():
    config = OptimizerConfig("muon", 1.0, weight_decay=0.0, **STEADY)
    params = random_params(models.build(TINY))
    after = trajectory(make_optimizer(config, 10), params, steps=1)
    return jax.tree.map(np.subtract, after, params)


@pytest.mark.parametrize(
    ("kernel", "inputs"),
    [
        ("attention/query", 1),
        ("attention/value", 1),
        ("attention/out", 2),
        ("mlp/up", 1),
        ("mlp/down", 1),
    ],
)
def test_muon_s_updates_are_orthogonal_layer_by_layer(kernel, inputs):
    """Five Newton-Schulz steps leave singular values near 1, not at it."""
    part, name = kernel.split("/")
    for layer in muon_s_first_update()["layers"][part][name]["kernel"]:
        matrix = layer.reshape(np.prod(layer.shape[:inputs]), -1)
        scale = 0.2 * np.sqrt(max(matrix.shape))  # the RMS of an update is 0.2
        values = np.linalg.svd(matrix / scale, compute_uv=False)
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_muon_leaves_embeddings_head_and_vectors_to_adam():
    params = random_params(models.build(TINY))
    muon, adam = (
        trajectory(
            make_optimizer(
                OptimizerConfig(name, 0.01, weight_decay=0.0, **STEADY), steps=10
            ),
            params,
            steps=1,
        )
        for name in ("muon", "adamw")
    )
    for part in ("embed", "head", "final_norm"):
        for x, y, before in zip(
            *map(jax.tree.leaves, (muon[part], adam[part], params[part])), strict=True
        ):
            # The first step of either is the learning rate times the gradient's sign,
            # up to the constant factor by which Nesterov's Adam looks ahead.
            np.testing.assert_array_equal(np.sign(x - before), np.sign(y - before))
            assert np.ptp(np.abs(x - before)) < 1e-4


def test_a_user_s_own_matrix_is_muon_s_too():
    params = {"mixer": {"kernel": jnp.eye(8) + 0.1}, "bias": jnp.ones(3)}
    config = OptimizerConfig("muon", 1.0, weight_decay=0.0, **STEADY)
    state = make_optimizer(config, 10).init(params)
    (found,) = (
        value
        for path, value in optax.tree.get_all_with_path(state, "mu")
        if "muon" in str(path)
    )
    assert found["mixer"]["kernel"].shape == (8, 8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_is_times_the_learning_rate_and_skips_norms_and_biases(name):
    params = random_params(models.build(FAMILIES["gpt2"]))
    config = OptimizerConfig(name, 0.1, weight_decay=0.5, **STEADY)
    optimizer = make_optimizer(config, steps=10)
    still = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(still, optimizer.init(params), params)
    for (path, update), before in zip(
        jax.tree_util.tree_leaves_with_path(updates),
        jax.tree.leaves(params),
        strict=True,
    ):
        is_decayed = path[-1].key in ("kernel", "tokens", "positions")
        expected = -0.05 * before if is_decayed else np.zeros_like(before)
        np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_device_holds_no_more_state_than_its_share(name):
    """Of 8 devices, each has an eighth of every matrix's moments."""
    mesh = make_mesh(MeshConfig(1, 4, 2))
    transform = make_optimizer(OptimizerConfig(name), steps=10)
    create = functools.partial(create_state, models.build(WIDE).init, transform)
    shapes = jax.eval_shape(create, jax.random.key(0))
    placed = state_shardings(shapes, mesh)
    for (path, leaf), where in zip(
        jax.tree_util.tree_leaves_with_path(shapes.opt_state),
        jax.tree.leaves(placed.opt_state),
        strict=True,
    ):
        if leaf.size > 4 * WIDE.width:
            share = np.prod(where.shard_shape(leaf.shape)) / leaf.size
            is_factored = jax.tree_util.keystr(path).count("v_")
            assert share <= (1 / 2 if is_factored else 1 / 8), path


def moments(name, **values):
    """Returns an optimiser, and the types of its state's arrays by path."""
    config = OptimizerConfig(name, 0.01, weight_decay=0.0, **values, **STEADY)
    optimizer = make_optimizer(config, 10)
    shapes = jax.eval_shape(models.build(TINY).init, jax.random.key(0))
    state = jax.tree_util.tree_leaves_with_path(jax.eval_shape(optimizer.init, shapes))
    return optimizer, {jax.tree_util.keystr(path): leaf.dtype for path, leaf in state}


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "sgd"])
def test_first_moments_may_be_bfloat16_and_second_ones_stay(name):
    found = moments(name, mu_dtype="bfloat16")[1]
    first = {path for path in found if ".mu[" in path or ".trace[" in path}
    assert first
    assert {found[path] for path in first} == {jnp.dtype("bfloat16")}
    default = moments(name)[1]
    assert {default[path] for path in first} == {jnp.dtype("float32")}
    rest = found.keys() - first
    assert [found[path] for path in rest] == [default[path] for path in rest]


def test_with_first_moments_in_bfloat16_training_goes_nearly_the_same_way():
    params = random_params(models.build(TINY))
    exact, rounded = (
        trajectory(moments("adamw", mu_dtype=dtype)[0], params)
        for dtype in ("float32", "bfloat16")
    )

    def distance(x, y):
        return float(optax.tree.norm(optax.tree.sub(x, y)))

    assert 0 < distance(rounded, exact) < 0.02 * distance(exact, params)


# Every case compiles for seconds, so only those with unusual state run by default.
ALL = set(itertools.product(OPTIMIZERS, [(2, 2, 2), (8, 1, 1), (1, 8, 1)]))
SOME = {("adafactor", (2, 2, 2)), ("muon", (2, 2, 2))}


@functools.cache
def losses_on(name, shape):
    """Returns the losses of some steps on one batch, on a mesh or on one device."""
    mesh = make_mesh(MeshConfig(*shape)) if shape else None
    placement = make_placement(mesh) if mesh else None
    model = models.build(TINY, placement=placement)
    rate = {"adafactor": 0.05, "sgd": 0.3}.get(name, 0.01)
    config = OptimizerConfig(name, rate, warmup_fraction=0.0, clip=100.0)
    optimizer = make_optimizer(config, steps=8)
    state = start_state(optimizer, random_params(models.build(TINY)))
    batch, options = packed_batch(8, 12, 60), {}
    if mesh:
        shapes = jax.eval_shape(lambda: state)
        placed = state_shardings(shapes, mesh)
        state = jax.device_put(state, placed)
        batch = to_devices(batch, mesh, data_shard(mesh, 8))
        options = {
            "state_shardings": placed,
            "loss_sharding": losses.LossSharding(mesh),
        }
    step = make_train_step(
        whole_model(model), optimizer, hard_labels(), next_token_task(), **options
    )
    found = []
    for _ in range(8):
        state, metrics = step(state, {}, batch)
        found.append(metrics["loss"].compute())
    return found


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *sorted(SOME),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in sorted(ALL - SOME)),
    ],
    ids=str,
)
def test_each_learns_the_same_on_a_mesh_as_on_one_device(name, shape):
    alone, sharded = losses_on(name, ()), losses_on(name, shape)
    assert alone[-1] < 0.8 * alone[0]
    np.testing.assert_allclose(sharded, alone, rtol=2e-3)


def refused(**values):
    from kdjax.config import default
    from kdjax.config.validation import validate

    config = default()
    config.student.train.optimizer.update(values)
    with pytest.raises(UsageError) as error:
        validate(config)
    return str(error.value)


def test_a_parameter_that_the_optimiser_does_not_take_is_refused():
    assert "beta2 is set, but sgd takes momentum" in refused(name="sgd", beta2=0.9)
    assert "momentum is set, but adamw takes" in refused(momentum=0.5)
    assert "decay_fraction is set" in refused(decay_fraction=0.5)
    assert "mu_dtype is set, but adafactor takes" in refused(
        name="adafactor", mu_dtype="bfloat16"
    )
    assert "mu_dtype is set, but does nothing unless" in refused(
        name="sgd", momentum=0.0, mu_dtype="bfloat16"
    )


def test_an_unknown_optimiser_and_two_warm_ups_are_refused():
    assert "adamw, lion, adafactor, muon, sgd" in refused(name="adam")
    assert "both set" in refused(warmup_steps=5, warmup_fraction=0.2)
    assert "more than the run's" in refused(warmup_steps=10_000)
    assert "momentum must be in [0, 1)" in refused(name="sgd", momentum=1.0)


def test_every_parameter_changes_what_some_optimiser_does():
    from kdjax.config.schema import OPTIMIZER_PARAMETERS

    params = {
        "mlp": {"up": {"kernel": jnp.ones((128, 128))}},
        "b": {"bias": jnp.ones(2)},
    }
    for name, taken in OPTIMIZER_PARAMETERS.items():
        config = OptimizerConfig(name, 0.1, **STEADY)
        default = trajectory(make_optimizer(config, 10), params)
        for parameter in taken:
            value = getattr(config, parameter)
            others = {True: False, "float32": "bfloat16"}
            changed = others[value] if value in others else value / 2 + 1e-3
            other = dataclasses.replace(config, **{parameter: changed})
            found = trajectory(make_optimizer(other, 10), params)
            moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), found, default)
            assert max(jax.tree.leaves(moved)) > 0, (name, parameter)
