"""What follows the devices: nothing changes on CPUs, and accelerators get theirs."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from teachers import architecture_of, make_setting
from toys import FAMILIES, equations, random_params

from kdjax import models
from kdjax.config import MeshConfig, ModelConfig, TokenizerConfig, TrainConfig
from kdjax.config.devices import micro_batches_of, remat_of
from kdjax.parallel.sharding import make_mesh, make_placement
from kdjax.text.tokenizer import train_tokenizer

BYTES = train_tokenizer((), TokenizerConfig(kind="bytes"))


@pytest.mark.parametrize(
    ("rows", "shards", "parts"),
    [
        (0, 8, 1),
        (8, 1, 32),  # one device
        (8, 8, 4),
        (8, 32, 1),
        (8, 256, 1),  # a pod, whose devices have a row each
        (5, 8, 8),  # 5 does not divide 32: the next smaller is 4
        (1, 4, 64),
        (300, 1, 1),
    ],
)
def test_micro_batches_are_the_fewest_that_give_no_device_more_rows(
    rows, shards, parts
):
    train = TrainConfig(batch_size=256, rows_per_device=rows)
    assert micro_batches_of(train, shards) == parts


def test_micro_batches_that_are_given_stay():
    assert micro_batches_of(TrainConfig(batch_size=8, micro_batches=4), 2) == 4


@pytest.mark.parametrize(
    ("platform", "is_blockwise", "expected"),
    [
        ("cpu", False, "none"),
        ("cpu", True, "none"),
        ("gpu", False, "block"),
        ("tpu", True, "context"),
    ],
)
def test_auto_recomputes_layers_on_accelerators_only(platform, is_blockwise, expected):
    model = ModelConfig()
    assert remat_of(model, platform, is_blockwise=is_blockwise) == expected
    chosen = dataclasses.replace(model, remat="dots")
    assert remat_of(chosen, platform, is_blockwise=is_blockwise) == "dots"


def test_a_model_on_an_accelerator_recomputes_what_auto_says():
    """Seen in the number of products of the gradient's program."""
    placement = make_placement(make_mesh(MeshConfig(2, 2, 2)))
    tokens = jnp.ones((4, 8), jnp.int32)

    def products(platform, remat):
        devices = placement.devices._replace(platform=platform)
        model = models.build(
            dataclasses.replace(FAMILIES["llama"], remat=remat),
            placement=placement._replace(devices=devices),
        )

        def loss(params):
            return jnp.square(model.hidden(params, tokens, tokens)).mean()

        params = jax.eval_shape(model.init, jax.random.key(0))
        found = equations(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
        return sum(str(e.primitive) == "dot_general" for e in found)

    assert products("cpu", "auto") == products("cpu", "none")
    assert products("gpu", "auto") == products("gpu", "block") > products("gpu", "none")


@pytest.mark.parametrize(
    ("dtype", "platform", "expected"),
    [
        ("", "cpu", "float32"),
        ("", "tpu", "bfloat16"),
        ("", "gpu", "bfloat16"),
        ("stored", "tpu", "float32"),
        ("float32", "tpu", "float32"),
    ],
)
def test_a_loaded_teacher_is_bfloat16_on_accelerators(
    tmp_path, dtype, platform, expected
):
    model = models.build(dataclasses.replace(FAMILIES["llama"], vocab_size=257))
    directory = tmp_path / "teacher"
    models.save_pretrained(
        directory, model, random_params(model), tokenizer=BYTES, card="# A teacher\n"
    )
    device = types.SimpleNamespace(platform=platform)
    mesh = types.SimpleNamespace(devices=np.array([device]))
    setting = make_setting(directory, BYTES, dtype=dtype)._replace(mesh=mesh)
    assert architecture_of(setting).dtype == expected
