"""The adapters that the documentation shows work as they are shown."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from toys import packed_batch

from kdjax import models
from kdjax.config import ModelConfig
from kdjax.evaluation.held_out import make_eval_step
from kdjax.models.transformer.attention import causal_mask
from kdjax.targets.online import of_model
from kdjax.train.state import create_state
from kdjax.train.task import next_token_task

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "own-models.md"
CONFIG = ModelConfig(layers=1, width=16, heads=2, vocab_size=50)
SHOWN = {}
for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
    exec(compile(block, PAGE.name, "exec"), SHOWN)


def average(x, segments):
    """Returns the mean of what each position may see, as a stand-in for attention."""
    seen = causal_mask(segments)[:, 0].astype(x.dtype)
    return seen @ x / seen.sum(-1, keepdims=True)


class LinenModel(nn.Module):
    """A bag of words."""

    @nn.compact
    def __call__(self, tokens, segments):
        x = nn.Embed(50, 16, name="embed")(tokens)
        x = x + nn.Dense(16, name="mix")(average(x, segments))
        self.param("output", nn.initializers.normal(), (16, 50))
        return nn.LayerNorm(name="norm")(x)


class NnxModel(nnx.Module):
    """The same, with the embedding as output."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(50, 16, rngs=rngs)
        self.mix = nnx.Linear(16, 16, rngs=rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)

    def __call__(self, tokens, segments):
        x = self.embed(tokens)
        return self.norm(x + self.mix(average(x, segments)))


OWN = {
    "linen": lambda: SHOWN["from_linen"](LinenModel(), CONFIG, lambda p: p["output"]),
    "nnx": lambda: SHOWN["from_nnx"](
        NnxModel, CONFIG, lambda p: p["embed"]["embedding"].T
    ),
}
either = pytest.mark.parametrize("name", OWN)


@either
def test_an_adapter_computes_what_the_module_does(name):
    own = OWN[name]()
    params = own.init(jax.random.key(3))
    tokens, segments = map(jnp.array, packed_batch(3, 8, 50).values())
    if name == "linen":
        expected = LinenModel().apply({"params": params}, tokens, segments)
        kernel = params["output"]
    else:
        module = NnxModel(nnx.Rngs(params=jax.random.key(3)))
        expected, kernel = module(tokens, segments), module.embed.embedding[...].T
    hidden = own.hidden(params, tokens, segments)
    np.testing.assert_array_equal(hidden, expected)
    np.testing.assert_allclose(
        own.logits(params, tokens, segments), expected @ kernel, atol=1e-5
    )
    other = own.init(jax.random.key(4))
    assert jax.tree.structure(other) == jax.tree.structure(params)
    assert any(map(np.any, jax.tree.leaves(jax.tree.map(jnp.subtract, other, params))))


@either
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_it_teaches_and_learns(name, role):
    ours, own = models.build(CONFIG), OWN[name]()
    student, teacher = (own, ours) if role == "student" else (ours, own)
    batch = {k: jnp.array(v) for k, v in packed_batch(4, 8, 50).items()}
    # A teacher of its initialisation alone would say the same of every token.
    teacher_params = jax.tree.map(lambda x: 8 * x, teacher.init(jax.random.key(1)))
    optimizer = optax.adam(1e-2)
    step = SHOWN["make_step"](student, teacher, optimizer)
    state = create_state(student.init, optimizer, jax.random.key(0))
    losses = []
    for _ in range(20):
        state, metrics = step(state, teacher_params, batch)
        losses.append(float(metrics["soft"].compute()))
    assert losses[-1] < 0.8 * losses[0]
    models_ = of_model(student), of_model(teacher)
    evaluate = make_eval_step(next_token_task(), *models_)
    scores = evaluate(state.params, teacher_params, batch)
    assert np.isfinite(float(scores["forward_kl"].compute()))
