"""Small things that several test files build their cases from."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.extend import core

from kdjax import models
from kdjax.checkpoints.native import save_model
from kdjax.config import ModelConfig, TokenizerConfig
from kdjax.text.tokenizer import train_tokenizer

# Points of the model's space that stand for the families it must hold.
FAMILIES = {
    "gpt2": ModelConfig(
        width=32,
        vocab_size=50,
        positions="learned",
        max_length=64,
        norm="layernorm",
        mlp="plain",
        activation="gelu_tanh",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    ),
    "neox": ModelConfig(
        width=32,
        heads=2,
        vocab_size=50,
        tie_embeddings=False,
        rope_fraction=0.25,
        norm="layernorm",
        parallel_residual=True,
        mlp="plain",
        activation="gelu",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    ),
    "llama": ModelConfig(
        width=32, kv_heads=2, ffn_width=48, vocab_size=50, tie_embeddings=False
    ),
    "qwen2": ModelConfig(
        width=32, kv_heads=2, ffn_width=48, vocab_size=50, qkv_bias=True
    ),
    "qwen3": ModelConfig(
        width=32, kv_heads=1, head_width=16, ffn_width=48, vocab_size=50, qk_norm=True
    ),
    "mistral": ModelConfig(
        width=32, kv_heads=2, ffn_width=48, vocab_size=50, windows=(3,)
    ),
    "gemma2": ModelConfig(
        width=32,
        kv_heads=2,
        head_width=16,
        ffn_width=48,
        vocab_size=50,
        windows=(3, 0),
        query_scalar=32.0,
        attention_softcap=5.0,
        logit_softcap=3.0,
        scale_embeddings=True,
        norm_offset=True,
        sandwich_norm=True,
        activation="gelu_tanh",
    ),
    "gemma3": ModelConfig(
        layers=3,
        width=32,
        kv_heads=1,
        head_width=16,
        ffn_width=48,
        vocab_size=50,
        rope_theta=1e6,
        local_rope_theta=1e4,
        windows=(3, 3, 0),
        scale_embeddings=True,
        norm_offset=True,
        sandwich_norm=True,
        qk_norm=True,
        activation="gelu_tanh",
    ),
}


TINY = ModelConfig(layers=1, width=16, heads=2, vocab_size=258)


def random_params(model):
    """Returns parameters far enough from zero for every effect to show."""
    rng = np.random.default_rng(0)

    def fill(path, x):
        center = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.float32(center + 0.1 * rng.normal(size=x.shape))

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(fill, shapes)


def write_model(directory, config=TINY):
    """Writes a model and its tokenizer as a finished run leaves them.

    Returns:
        The model, its parameters and the tokenizer.
    """
    # All bytes, the end of text and one merge.
    tokenizer = train_tokenizer(["of " * 9], TokenizerConfig(vocab_size=258))
    model = models.build(config)
    params = random_params(model)
    size = config.vocab_size  # what no id reaches is not kept in other formats
    params["embed"]["tokens"] = params["embed"]["tokens"].at[size:].set(0)
    directory = epath.Path(directory)
    directory.mkdir(parents=True)
    tokenizer.save_files(directory)
    card = {
        "model": dataclasses.asdict(config),
        "tokenizer": tokenizer.sha256,
        "end_of_text": tokenizer.end_of_text_token,
    }
    save_model(directory, params, card)
    return model, params, tokenizer


def packed_batch(rows, length, vocab_size, seed=0):
    """Returns rows of several documents each, ragged at the end; one row is empty."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab_size, (rows, length), dtype=np.int32)
    segments = np.zeros((rows, length), np.int32)
    for row in range(1, rows):
        start, number = 0, 0
        while start < length - rng.integers(0, length // 2):
            start, number, low = start + rng.integers(1, 8), number + 1, start
            segments[row, low:start] = number
    return {"tokens": np.where(segments > 0, tokens, 0), "segments": segments}


def assert_close(found, expected, rtol):
    """Compares two trees; `rtol` is relative to the largest element of each leaf."""

    def compare(path, x, y):
        name, atol = jax.tree_util.keystr(path), rtol * np.abs(y).max()
        np.testing.assert_allclose(x, y, rtol=0, atol=atol, err_msg=name)

    jax.tree_util.tree_map_with_path(compare, found, expected)


def dot_products(function, *arguments):
    """Returns the FLOPs of every matrix product in a function's jaxpr.

    A product in the body of a scan appears once, with the FLOPs of all iterations.
    """
    return list(_dots(jax.make_jaxpr(function)(*arguments).jaxpr, 1))


def equations(jaxpr):
    """Yields every equation, those of inner jaxprs included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in _inner(equation):
            yield from equations(inner)


def _dots(jaxpr, repeats):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            shape = equation.invars[0].aval.shape
            depth = math.prod(shape[axis] for axis in contracted)
            yield 2 * repeats * depth * equation.outvars[0].aval.size
        for inner in _inner(equation):
            yield from _dots(inner, repeats * equation.params.get("length", 1))


def _inner(equation):
    for value in jax.tree.leaves(
        list(equation.params.values()),
        is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr),
    ):
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value
