"""Decoding with a cache is the model itself, and draws are what was asked for."""

import dataclasses
import functools
import inspect
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import FAMILIES, random_params

from kdjax import models
from kdjax.config import MeshConfig, RopeScalingConfig
from kdjax.core.errors import UsageError
from kdjax.generation.decode import ENDED, Generator
from kdjax.generation.sampling import Sampling, restrict, sample
from kdjax.parallel.sharding import make_mesh, make_placement, shardings

CASES = FAMILIES | {
    "llama3": dataclasses.replace(
        FAMILIES["llama"],
        rope_scaling=RopeScalingConfig("llama3", 8.0, original_length=8),
    ),
    "linear": dataclasses.replace(
        FAMILIES["gemma3"], rope_scaling=RopeScalingConfig("linear", 2.0)
    ),
    "wide window": dataclasses.replace(FAMILIES["mistral"], windows=(5, 3)),
}
PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [11, 12], [20] * 17]
KEY = jax.random.key(0)


@functools.cache
def make(name):
    model = models.build(CASES[name])
    return model, random_params(model)


def generate(generator, prompts=PROMPTS, max_tokens=12, key=KEY):
    """Returns what each prompt is continued with."""
    rows = np.stack(list(generator(prompts, max_tokens=max_tokens, key=key)), axis=1)
    return [row[row != ENDED].tolist() for row in rows]


@functools.cache
def greedy(name):
    """Returns the continuations that the uncached model finds likeliest."""
    model, params = make(name)
    logits = jax.jit(model.logits)
    rows = np.zeros((len(PROMPTS), 32), np.int32)
    ends = [len(prompt) for prompt in PROMPTS]
    for row, prompt in zip(rows, PROMPTS, strict=True):
        row[: len(prompt)] = prompt
    for _ in range(12):
        found = np.asarray(logits(params, rows))
        for number, end in enumerate(ends):
            rows[number, end] = found[number, end - 1].argmax()
            ends[number] = end + 1
    return [row[end - 12 : end].tolist() for row, end in zip(rows, ends, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_cached_decoding_computes_the_logits_of_the_whole_text(name):
    """Beyond the windows, for rows of different lengths behind one padding."""
    model, params = make(name)
    rng = np.random.default_rng(0)
    rows, lengths = rng.integers(0, 50, (3, 18)), np.array([9, 2, 6])
    expected = np.asarray(jax.jit(model.logits)(params, rows))

    @jax.jit
    def decode(cache, tokens, positions):
        hidden, cache = model.decode(params, cache, tokens, positions)
        return models.apply_head(model.head(params), hidden), cache

    def compare(found, positions, is_real):
        wanted = np.take_along_axis(expected, positions[..., None], axis=1)
        found, wanted = (x[is_real][:, :50] for x in (np.asarray(found), wanted))
        np.testing.assert_allclose(found, wanted, atol=1e-4)

    positions = np.tile(np.arange(9), (3, 1))
    is_real = positions < lengths[:, None]
    padded = np.where(is_real, rows[:, :9], 49)  # whatever padding is
    logits, cache = decode(model.init_cache(3, 20), padded, positions)
    compare(logits, positions, is_real)
    for step in range(9):
        positions = lengths[:, None] + step
        tokens = np.take_along_axis(rows, positions, axis=1)
        logits, cache = decode(cache, tokens, positions)
        compare(logits, positions, np.ones((3, 1), bool))


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_greedy_generation_is_the_naive_loop(name):
    assert generate(Generator(*make(name))) == greedy(name)


def test_under_bfloat16_the_cache_is_half_as_large():
    model = models.build(dataclasses.replace(CASES["llama"], dtype="bfloat16"))
    cache = model.init_cache(3, 24)
    assert {x.dtype for x in jax.tree.leaves(cache)} == {jnp.dtype(jnp.bfloat16)}
    assert cache.keys.shape == (2, 3, 24, 2, 8)
    _, params = make("llama")
    assert len(generate(Generator(model, params), max_tokens=3)[0]) == 3


def test_decoding_compiles_once_and_prefill_once_a_length(caplog):
    generator = Generator(*make("llama"))

    def compiled(prompts):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            generate(generator, prompts)
        lines = [record.getMessage() for record in caplog.records]
        return {
            name: sum(f"XLA compilation of jit({name})" in line for line in lines)
            for name in ("prefill", "step")
        }

    assert compiled(PROMPTS) == {"prefill": 1, "step": 1}
    # Other prompts, padded to the same lengths.
    assert compiled([[7] * 18, [8], [9, 1]]) == {"prefill": 0, "step": 0}


def test_a_sharded_model_says_the_same():
    _, params = make("llama")
    mesh = make_mesh(MeshConfig(2, 2, 2))
    sharded = jax.device_put(params, shardings(params, mesh))
    placed = models.build(CASES["llama"], placement=make_placement(mesh))
    prompts = [*PROMPTS, [5]]
    assert generate(Generator(placed, sharded), prompts)[:3] == greedy("llama")


def test_a_row_ends_at_a_stop_and_the_others_go_on():
    first, second, third = greedy("gpt2")
    stop = first[3]
    assert stop not in first[:3]
    cut = [row[: row.index(stop)] if stop in row else row for row in greedy("gpt2")]
    generator = Generator(*make("gpt2"), stops=[stop, 12345])
    assert generate(generator) == cut
    assert list(map(len, cut)) != [12, 12, 12]
    # The last row's end is the end of all.
    everything = Generator(*make("gpt2"), stops={first[1], second[1], third[1]})
    steps = list(everything(PROMPTS, max_tokens=12, key=KEY))
    assert len(steps) <= 1


def test_learned_positions_are_used_to_the_last_and_not_beyond():
    generator = Generator(*make("gpt2"))
    assert len(generate(generator, [[3] * 60], max_tokens=4)[0]) == 4
    with pytest.raises(UsageError, match=r"60 tokens .* 64 positions"):
        generator.shape([[3] * 60], 5)
    with pytest.raises(UsageError, match="no token"):
        generator.shape([[3], []], 5)
    Generator(*make("llama")).shape([[3] * 600], 5000)


def test_padding_looks_up_no_position_that_was_not_learnt():
    config = dataclasses.replace(CASES["gpt2"], max_length=40)
    model = models.build(config)
    params = random_params(model)
    generator = Generator(model, params)
    assert generator.shape([[3] * 35], 5) == (1, 40, 40)
    found = generate(generator, [[3] * 35], max_tokens=5)[0]
    row = np.array([[3] * 35 + found[:-1]])
    likeliest = np.asarray(jax.jit(model.logits)(params, row))[0, 34:].argmax(-1)
    assert found == likeliest.tolist()


def test_a_model_that_cannot_decode_is_refused():
    model, params = make("llama")
    with pytest.raises(ValueError, match="decode"):
        Generator(model._replace(decode=None), params)


def test_a_seed_repeats_and_a_row_depends_on_nobody_else():
    generator = Generator(*make("llama"), sampling=Sampling(1.0, top_k=20))
    drawn = generate(generator)
    assert generate(generator) == drawn
    assert generate(generator, key=jax.random.key(1)) != drawn
    assert generate(generator, PROMPTS[:1])[0] == drawn[0]
    assert generate(generator, [PROMPTS[0], [4], [5]])[0] == drawn[0]
    twice = generate(generator, [[4], [4]])
    assert twice[0] != twice[1]


def test_every_position_is_drawn_anew():
    model, params = make("llama")
    knows_nothing = jax.tree.map(jnp.zeros_like, params)
    generator = Generator(model, knows_nothing, sampling=Sampling(1.0))
    assert len(set(generate(generator)[0])) > 6


LOGITS = jnp.log(jnp.array([0.4, 0.05, 0.25, 0.2, 0.1, 0.0]))


def kept(sampling):
    return np.flatnonzero(np.isfinite(restrict(LOGITS, sampling))).tolist()


def test_top_k_and_top_p_keep_what_they_must():
    assert kept(Sampling(1.0)) == [0, 1, 2, 3, 4]
    assert kept(Sampling(1.0, top_k=1)) == [0]
    assert kept(Sampling(1.0, top_k=3)) == [0, 2, 3]
    assert kept(Sampling(1.0, top_k=99)) == [0, 1, 2, 3, 4]
    # The smallest set that reaches p.
    assert kept(Sampling(1.0, top_p=1e-9)) == [0]
    assert kept(Sampling(1.0, top_p=0.39)) == [0]
    assert kept(Sampling(1.0, top_p=0.41)) == [0, 2]
    assert kept(Sampling(1.0, top_p=0.66)) == [0, 2, 3]
    # Of what top-k leaves, 0.4 / 0.65 is already more than 0.6.
    assert kept(Sampling(1.0, top_k=2, top_p=0.6)) == [0]
    # Heat flattens before top-p counts, and cold sharpens.
    assert kept(Sampling(100.0, top_p=0.61)) == [0, 2, 3, 4]
    assert kept(Sampling(0.1, top_p=0.98)) == [0]


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0), Sampling(0.5), Sampling(2.0, 3), Sampling(1.0, 0, 0.7)]
)
def test_tokens_are_drawn_as_often_as_they_are_likely(sampling):
    count = 20_000
    keys = jax.random.split(KEY, count)
    drawn = sample(jnp.tile(LOGITS[None], (count, 1)), keys, sampling)
    found = np.bincount(drawn, minlength=6) / count
    likely = np.where(np.isin(range(6), kept(sampling)), np.exp(LOGITS), 0)
    likely = likely ** (1 / sampling.temperature)
    np.testing.assert_allclose(found, likely / likely.sum(), atol=0.015)


def test_greedy_takes_the_likeliest():
    rows = jnp.stack([LOGITS, LOGITS[::-1]])
    keys = jax.random.split(KEY, 2)
    assert sample(rows, keys, Sampling()).tolist() == [0, 5]


@pytest.mark.parametrize(
    ("sampling", "word"),
    [
        (Sampling(-1.0), "--temperature"),
        (Sampling(float("nan")), "--temperature"),
        (Sampling(float("inf")), "--temperature"),
        (Sampling(1.0, -1), "--top_k"),
        (Sampling(1.0, 0, 0.0), "--top_p"),
        (Sampling(1.0, 0, float("nan")), "--top_p"),
        (Sampling(0.0, 5), "set --temperature"),
    ],
)
def test_a_value_without_a_meaning_is_refused(sampling, word):
    with pytest.raises(UsageError, match=word):
        sampling.check()


@pytest.mark.parametrize("prompts", [[], [1, 2], ["def"]], ids=str)
def test_prompts_that_are_no_lists_of_ids_are_refused_in_words(prompts):
    shape = inspect.unwrap(Generator.shape)
    with pytest.raises(ValueError, match="prompts must be lists of ids"):
        shape(Generator(*make("gpt2")), prompts, 4)
