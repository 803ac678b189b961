"""Whether training several small students in one vmapped step saves CPU seconds.

    python -m benchmarks.vmapped --config=kdjax:gpt_debug

Four students that differ in temperature, learning rate and seed take their steps one
after the other, then all in one step, with the same batch for all, so that the
teacher's pass is shared, or with batches of their own, as different seeds have them.
"""

import dataclasses
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import app, flags

from kdjax.config import validate
from kdjax.config.packaged import load_config
from kdjax.losses import next_token
from kdjax.models import Model, build

STUDENTS = 4
_CONFIG = flags.DEFINE_string("config", "kdjax:gpt_debug", "An example config.")
_STEPS = flags.DEFINE_integer("steps", 40, "Steps of each student.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Measurements.")
_IDS = {"bytes": 257, "bpe": 1024}


def step(
    params: Any,
    moments: Any,
    rate: jax.Array,
    temperature: jax.Array,
    tokens: jax.Array,
    soft: jax.Array,
    *,
    student: Model,
) -> tuple[Any, Any]:
    """Returns parameters and moments after a step on forward KL.

    Args:
        params: The student's.
        moments: Adam's.
        rate: The learning rate.
        temperature: Of both distributions.
        tokens: [B, T].
        soft: The teacher's logits, [B, T, V].
        student: The student.
    """

    def loss(params: Any) -> jax.Array:
        _, weights = next_token(tokens, jnp.ones_like(tokens))
        logits = student.logits(params, tokens, jnp.ones_like(tokens))
        q = jax.nn.log_softmax(logits / temperature)
        p = jax.nn.log_softmax(soft / temperature)
        kl = (jnp.exp(p) * (p - q)).sum(-1)
        return temperature**2 * (kl * weights).sum() / weights.sum()

    updates, moments = optax.scale_by_adam().update(jax.grad(loss)(params), moments)
    return jax.tree.map(lambda p, u: p - rate * u, params, updates), moments


def measure(name: str, run: Callable[[], Any]) -> None:
    """Prints CPU seconds and seconds of a function."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    jax.block_until_ready(run())
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name}: {cpu:.2f} CPU s, {time.perf_counter() - began:.2f} s")


def main(argv: list[str]) -> None:
    """Measures the three ways."""
    del argv
    config = validate(load_config(_CONFIG.value))
    ids = _IDS[config.tokenizer.kind]
    student = build(dataclasses.replace(config.student.model, vocab_size=ids))
    teacher = build(dataclasses.replace(config.teacher.model, vocab_size=ids))
    shape = (STUDENTS, config.student.train.batch_size, config.data.length)
    frozen = teacher.init(jax.random.key(1))
    tokens = jax.random.randint(jax.random.key(2), shape, 0, ids)
    params = jax.vmap(student.init)(jax.random.split(jax.random.key(0), STUDENTS))
    moments = jax.vmap(optax.scale_by_adam().init)(params)
    rates = jnp.full(STUDENTS, 1e-3)
    temperatures = 2.0 ** jnp.arange(STUDENTS)
    one_step = partial(step, student=student)

    def soft(tokens: jax.Array) -> jax.Array:
        return teacher.logits(frozen, tokens, jnp.ones_like(tokens))

    @jax.jit
    def one(params: Any, moments: Any, rate: Any, temperature: Any, tokens: Any) -> Any:
        return one_step(params, moments, rate, temperature, tokens, soft(tokens))

    together = jax.jit(
        lambda p, m, r, t, x: jax.vmap(one_step, (0, 0, 0, 0, None, None))(
            p, m, r, t, x, soft(x)
        )
    )
    own = jax.jit(jax.vmap(one))

    def repeat(function: Any, state: Any, *rest: Any) -> Any:
        for _ in range(_STEPS.value):
            state = function(*state, *rest)
        return state

    def in_turn() -> Any:
        every = (params, moments, rates, temperatures, tokens)
        for index in range(STUDENTS):
            p, m, *rest = jax.tree.map(lambda x, i=index: x[i], every)
            state = repeat(one, (p, m), *rest)
        return state

    state, rest = (params, moments), (rates, temperatures)
    ways = {
        "in turn": in_turn,
        "vmapped, one batch for all": lambda: repeat(together, state, *rest, tokens[0]),
        "vmapped, own batches": lambda: repeat(own, state, *rest, tokens),
    }
    for repetition in range(_REPEATS.value + 1):
        for name, run in ways.items():
            if repetition:
                measure(name, run)
            else:
                run()  # compiles


if __name__ == "__main__":
    app.run(main)
