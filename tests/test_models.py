"""The decoder sees what it may see, and every point of its space is a sound model."""

import dataclasses
import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import FAMILIES, assert_close, dot_products, equations, random_params

from kdjax import config as config_lib
from kdjax import losses, models
from kdjax.config import ModelConfig, RopeScalingConfig
from kdjax.models.transformer import attention, decoder, layers

families = pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES.keys())
TOKENS = jnp.arange(48).reshape(3, 16)
SEGMENTS = jnp.array([[1] * 5 + [2] * 8 + [0] * 3, [1] * 16, [1] * 2 + [2] * 14])


@functools.cache
def make(config):
    """Returns a model that is compiled once for all tests, and parameters."""
    model = models.build(config)
    return model._replace(hidden=jax.jit(model.hidden)), random_params(model)


def vary(name, **changes):
    return dataclasses.replace(FAMILIES[name], **changes)


@pytest.mark.parametrize("name", ["gpt2", "neox", "qwen3"])
def test_a_position_sees_the_past_of_its_own_document_and_nothing_else(name):
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 2, 3, 3, 0, 0]])
    tokens = jnp.arange(11)[None]  # all different: an embedding stands for a position
    # With one layer nothing reaches a position by way of another.
    model, params = make(vary(name, layers=1))

    def influence(position):
        """Returns how the token's embedding moves every hidden state."""

        def hidden(table):
            changed = {**params, "embed": {**params["embed"], "tokens": table}}
            return model.hidden(changed, tokens, segments)[0]

        table = params["embed"]["tokens"]
        _, moved = jax.jvp(
            hidden, (table,), (jnp.zeros_like(table).at[position].set(direction),)
        )
        return jnp.abs(moved).max(-1)

    direction = jax.random.normal(jax.random.key(2), (model.config.width,))
    seen = jax.jit(jax.vmap(influence, out_axes=1))(jnp.arange(11)) > 0
    same = np.asarray(segments) == segments.T
    np.testing.assert_array_equal(seen, np.tril(same))


@families
def test_a_document_means_the_same_alone_and_behind_another(config):
    model, params = make(config)
    document = jnp.arange(20, 28)
    rows = [
        jnp.concatenate([jnp.arange(5), document, jnp.arange(3)]),
        jnp.pad(document, (0, 8)),
        jnp.arange(16),
    ]
    segments = jnp.array([[1] * 5 + [2] * 8 + [0] * 3, [1] * 8 + [0] * 8, [1] * 16])
    hidden = model.hidden(params, jnp.stack(rows), segments)
    np.testing.assert_allclose(hidden[0, 5:13], hidden[1, :8], atol=1e-4)


@pytest.mark.parametrize("windows", [(3,), (3, 0), (0, 3)], ids=str)
def test_a_layer_sees_as_far_as_its_window(windows):
    """Two layers see twice as far as one, less the position where they meet."""
    model, params = make(vary("mistral", windows=windows))
    tokens = jnp.arange(12)[None]
    before = model.hidden(params, tokens)[0]
    after = model.hidden(params, tokens.at[0, 2].set(49))[0]
    seen = np.flatnonzero(np.abs(before - after).max(-1) > 1e-6)
    last = 6 if windows == (3,) else 11
    np.testing.assert_array_equal(seen, np.arange(2, last + 1))


def test_a_windowed_layer_rotates_by_its_own_theta():
    local = vary("mistral", layers=1, windows=(3,), local_rope_theta=10.0)
    model, params = make(local)
    all_local, _ = make(vary("mistral", layers=1, windows=(3,), rope_theta=10.0))
    np.testing.assert_array_equal(
        model.hidden(params, TOKENS, SEGMENTS),
        all_local.hidden(params, TOKENS, SEGMENTS),
    )
    everywhere = dataclasses.replace(local, windows=(0,))
    plain = dataclasses.replace(everywhere, local_rope_theta=0.0)
    np.testing.assert_array_equal(
        make(everywhere)[0].hidden(params, TOKENS, SEGMENTS),
        make(plain)[0].hidden(params, TOKENS, SEGMENTS),
    )


def test_capped_attention_with_a_far_cap_is_plain_attention():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((2, 9, 4, 8), (2, 9, 2, 8), (2, 9, 2, 8))
    query, key, value = (
        jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)
    )
    segments = jnp.array([[1] * 9, [1] * 4 + [2] * 5])

    def attend(cap):
        config = ModelConfig(heads=4, query_scalar=0.3**-2, attention_softcap=cap)
        placement = models.Placement()
        view = attention.make_view(config, segments, placement)
        return attention.attend(query, key, value, view, config, placement)

    plain, far, near = map(attend, (0.0, 1e4, 0.5))
    np.testing.assert_allclose(far, plain, rtol=1e-4, atol=1e-5)
    assert np.abs(near - plain).max() > 0.05


def test_llama3_scaling_slows_long_waves_and_keeps_short_ones():
    scaling = RopeScalingConfig("llama3", 8.0, 1.0, 4.0, original_length=100)
    one = jnp.array([[1]])
    plain, scaled = (attention.rope_angles(one, 64, 1e4, s) for s in (None, scaling))
    waves = 100 * np.asarray(plain)[0, 0] / (2 * np.pi)  # in the original length
    ratio = np.asarray(scaled / plain)[0, 0]
    np.testing.assert_allclose(ratio[waves > 4], 1)
    np.testing.assert_allclose(ratio[waves < 1], 1 / 8, rtol=1e-6)
    between = ratio[(waves > 1) & (waves < 4)]
    assert len(between) > 2 and (np.diff(between) < 0).all()
    linear = attention.rope_angles(one, 64, 1e4, RopeScalingConfig("linear", 8.0))
    np.testing.assert_allclose(linear, plain / 8, rtol=1e-6)


def test_positions_reach_the_hidden_states():
    """A model that knows no positions would pass the test above."""
    learned, params = make(FAMILIES["gpt2"])
    moved = {**params["embed"], "positions": params["embed"]["positions"][::-1]}
    before = learned.hidden(params, TOKENS, SEGMENTS)
    after = learned.hidden({**params, "embed": moved}, TOKENS, SEGMENTS)
    assert np.abs(before - after).max() > 0.1
    rope, params = make(FAMILIES["neox"])
    before = rope.hidden(params, TOKENS, SEGMENTS)
    after = models.build(vary("neox", rope_theta=10.0)).hidden(params, TOKENS, SEGMENTS)
    assert np.abs(before - after).max() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "neox", "mistral", "gemma3"])
def test_scan_over_layers_is_a_loop_over_blocks(name):
    config = FAMILIES[name]
    model, params = make(config)
    positions = attention.segment_positions(SEGMENTS)
    view = attention.make_view(config, SEGMENTS, models.Placement())
    embed = decoder.Embed(config, models.Placement())
    x = embed.apply({"params": params["embed"]}, TOKENS, positions)
    block = jax.jit(layers.Block(config, models.Placement()).apply)
    for layer in range(config.layers):
        sliced = jax.tree.map(lambda x, layer=layer: x[layer], params["layers"])
        window = jnp.array(config.layer_windows[layer])
        x, _ = block({"params": sliced}, x, window, view)
    norm = layers.norm(config, "final_norm")
    expected = norm.apply({"params": params["final_norm"]}, x)
    hidden = model.hidden(params, TOKENS, SEGMENTS)
    np.testing.assert_allclose(hidden, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_one_device_computes_what_several_do(name, monkeypatch):
    """On one device the rows of a batch are joined before the products."""
    model, params = make(FAMILIES[name])
    several = model.hidden(params, TOKENS, SEGMENTS)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    alone = models.build(FAMILIES[name])
    joined = jax.make_jaxpr(alone.hidden)(params, TOKENS, SEGMENTS)
    shapes = {x.aval.shape for e in equations(joined.jaxpr) for x in e.outvars}
    assert (48, 32) in shapes
    np.testing.assert_allclose(
        alone.hidden(params, TOKENS, SEGMENTS), several, rtol=1e-5, atol=1e-5
    )


def test_remat_recomputes_and_changes_no_gradient():
    gradients, products, kept = {}, {}, {}
    for remat in ("none", "dots", "context", "block"):
        model = models.build(vary("llama", mlp="plain", remat=remat))

        def loss(params, hidden=model.hidden):
            return jnp.square(hidden(params, TOKENS, SEGMENTS) - 0.3).sum()

        params = random_params(model)
        gradients[remat] = jax.jit(jax.grad(loss))(params)
        products[remat] = len(dot_products(jax.grad(loss), params))
        pullback = jax.eval_shape(lambda x, f=loss: jax.vjp(f, x)[1], params)
        kept[remat] = sum(x.size for x in jax.tree.leaves(pullback))
    assert products["none"] < products["dots"] < products["context"]
    assert products["context"] < products["block"]
    assert kept["none"] > kept["dots"] > kept["context"] > kept["block"]
    for remat in ("dots", "context", "block"):
        assert_close(gradients[remat], gradients["none"], 1e-5)


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_grouped_heads_are_full_heads_with_repeated_weights(name):
    grouped, params = make(FAMILIES[name])
    full = models.build(vary(name, kv_heads=0))
    mixed = dict(params["layers"]["attention"])
    for part in ("key", "value"):
        mixed[part] = jax.tree.map(
            lambda x: x.repeat(4 // x.shape[-2], axis=-2), mixed[part]
        )
    repeated = {**params, "layers": {**params["layers"], "attention": mixed}}
    np.testing.assert_allclose(
        full.hidden(repeated, TOKENS, SEGMENTS),
        grouped.hidden(params, TOKENS, SEGMENTS),
        rtol=1e-4,
        atol=1e-5,
    )


@families
def test_logits_are_finite_and_those_of_real_ids(config):
    model, params = make(config)
    hidden = model.hidden(params, TOKENS, SEGMENTS)
    logits = models.apply_head(model.head(params), hidden)
    assert logits.shape == (3, 16, 50)
    assert np.isfinite(logits).all()
    whole = model.logits(params, TOKENS, SEGMENTS)
    np.testing.assert_allclose(logits, whole, atol=1e-5)
    padded = losses.padded_logits(model.head(params), hidden)
    assert padded.shape == (3, 16, 64)
    np.testing.assert_array_equal(padded[..., :50], logits)
    assert (padded[..., 50:] == -np.inf).all()


@pytest.mark.parametrize(
    "tokens", [jnp.ones(3, int), jnp.ones((1, 3)), jnp.ones((1, 2, 3), int)]
)
def test_what_is_no_batch_of_ids_is_refused_in_words(tokens):
    model, params = make(FAMILIES["gpt2"])
    hidden = inspect.unwrap(model.hidden)  # the shapes of annotations are not checked
    with pytest.raises(ValueError, match=r"tokens must be ids \[B, T\]"):
        hidden(params, tokens)
    assert hidden(params, np.array([[1, 2]])).shape[:2] == (1, 2)


@families
def test_under_bfloat16_all_but_the_products_stays_float32(config):
    model = models.build(dataclasses.replace(config, dtype="bfloat16"))
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    assert jax.eval_shape(model.logits, params, TOKENS).dtype == jnp.float32
    assert jax.eval_shape(model.hidden, params, TOKENS).dtype == jnp.bfloat16
    dtypes = {"exp": set(), "rsqrt": set(), "dot_general": set()}
    for equation in equations(jax.make_jaxpr(model.hidden)(params, TOKENS).jaxpr):
        if equation.primitive.name in dtypes:
            dtypes[equation.primitive.name] |= {x.aval.dtype for x in equation.invars}
    assert dtypes["exp"] == {np.dtype(np.float32)}  # the softmax
    assert dtypes["rsqrt"] == {np.dtype(np.float32)}  # the norms
    assert dtypes["dot_general"] == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_bfloat16_computes_the_same_model(name):
    wide, params = make(FAMILIES[name])
    narrow = models.build(vary(name, dtype="bfloat16"))
    exact = wide.hidden(params, TOKENS, SEGMENTS)
    rough = narrow.hidden(params, TOKENS, SEGMENTS).astype(jnp.float32)
    error = jnp.abs(rough - exact).max() / jnp.abs(exact).max()
    assert 1e-4 < error < 0.05


@functools.cache
def program(config):
    model = models.build(config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    text = str(jax.make_jaxpr(model.logits)(params, TOKENS))
    return re.sub("0x[0-9a-f]+", "", text)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 3},
        {"heads": 8},
        {"kv_heads": 1},
        {"head_width": 8},
        {"ffn_width": 64},
        {"vocab_size": 51},
        {"vocab_multiple": 128},
        {"tie_embeddings": True},
        {"positions": "learned", "max_length": 64},
        {"rope_theta": 100.0},
        {"rope_fraction": 0.5},
        {"rope_scaling": RopeScalingConfig("linear", 2.0)},
        {"rope_scaling": RopeScalingConfig("llama3", 2.0, original_length=64)},
        {"windows": (3,)},
        {"windows": (3, 0)},
        {"windows": (3, 0), "local_rope_theta": 100.0},
        {"query_scalar": 2.0},
        {"attention_softcap": 5.0},
        {"logit_softcap": 5.0},
        {"scale_embeddings": True},
        {"sandwich_norm": True},
        {"norm": "rmsnorm"},
        {"norm": "rmsnorm", "norm_offset": True},
        {"norm_epsilon": 0.1},
        {"qk_norm": True},
        {"parallel_residual": False},
        {"mlp": "gated"},
        {"activation": "relu"},
        {"activation": "gelu_tanh"},
        {"qkv_bias": False},
        {"out_bias": False},
        {"mlp_bias": False},
        {"dtype": "bfloat16"},
    ],
    ids=str,
)
def test_no_option_is_ignored(change):
    assert program(FAMILIES["neox"]) != program(vary("neox", **change))


def test_rotation_makes_scores_depend_on_distance_alone():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 3, 16))

    def score(query_at, key_at):
        rotated = [
            attention.rotate(x, attention.rope_angles(jnp.array([[at]]), 8, 100.0))
            for x, at in ((query, query_at), (key, key_at))
        ]
        return (rotated[0] * rotated[1]).sum(-1)

    near, shifted, far = score(7, 4), score(57, 54), score(57, 4)
    np.testing.assert_allclose(near, shifted, atol=1e-4)
    assert np.abs(near - far).max() > 0.1


def test_rope_rotates_the_first_dimensions_and_keeps_the_rest():
    x = jax.random.normal(jax.random.key(0), (1, 2, 3, 16))
    angles = attention.rope_angles(jnp.array([[0, 9]]), 8, 100.0)
    rotated = attention.rotate(x, angles)
    np.testing.assert_array_equal(rotated[:, 0], x[:, 0])
    np.testing.assert_array_equal(rotated[:, 1, :, 8:], x[:, 1, :, 8:])
    # Dimension i turns together with i + 4, by 9 * 100**(-i / 4).
    pairs = [np.asarray(y[0, 1, :, :4] + 1j * y[0, 1, :, 4:8]) for y in (x, rotated)]
    turn = np.exp(9j * 100.0 ** -(np.arange(4) / 4))
    np.testing.assert_allclose(pairs[1], pairs[0] * turn, atol=1e-5)


def test_a_model_without_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size"):
        models.build(config_lib.ModelConfig())
