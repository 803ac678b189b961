"""Configs with any value anywhere are run, or refused in one line."""

import random
import signal

import jax
import pytest
from mutations import ODD

from kdjax.config import Config, ModelConfig, default, validate
from kdjax.config.flags import _Literal, _Tuple
from kdjax.config.student_rules import student_model
from kdjax.core.errors import UsageError

TYPED = (
    *("-1", "0", "1", "2", "7", "1.5", "nan", "inf", "-inf", "1e308", "1e-320", "abc"),
    *("", "True", "None", "[]", "()", "(1,)", "(0, 0)", "('a',)", "1" * 5000, "{}"),
    *("9223372036854775808", "2147483648", "100000", "65536", "-5", "../x", "\0"),
    *("{'kind': 'linear'}", "{'start': 'x'}", "(('[', ('data',)),)", "1_000", "0x10"),
    *("{'kind': 'linear', 'start': 1e-30, 'end': 1}", "(('x', ('nope',)),)", "1e9"),
)
WRITTEN = (
    *(*ODD, 10**400, 10**5000, 2**22, 65536, 100_000, 1e-30, 1e-8, 0.999999999, 1j),
    *(b"x", {1}, object(), range(3), (1,), (0, 0), (("x", ("nope",)),), (("[", ()),)),
    *({"kind": "linear", "start": float("nan"), "end": 1}, {"kind": "nope"}),
)


def keys(config, path=()):
    """Yields the path of every value of a config."""
    for name in config:
        value = config[name]
        if hasattr(value, "keys") and len(value):
            yield from keys(value, (*path, name))
        else:
            yield (*path, name)


KEYS = sorted(keys(default()))


def mutated(chance):
    """Returns a config in which a flag or a file sets some key to anything."""
    config = default()
    for _ in range(chance.choice((1, 1, 1, 2))):
        *parents, last = chance.choice(KEYS)
        place = config
        for name in parents:
            place = place[name]
        if chance.random() < 0.5:
            text = chance.choice(TYPED)
            parser = _Tuple() if isinstance(place[last], tuple) else _Literal()
            value = parser.parse(text)
        else:
            value = chance.choice(WRITTEN)
        try:
            place[last] = value
        # What ml_collections refuses, `explain` explains; tests/test_config.py.
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError):
            return default()
    return config


def checked(config):
    """Returns the config, or the line that refuses it."""
    try:
        return validate(config)
    except UsageError as error:
        said = str(error)
        assert "\n" not in said and len(said) < 1500 and "config" in said, said
        return said


def attack(count, seed=0):
    """Returns the configs that are accepted, and how many are refused."""
    accepted, refused = [], 0
    for number in range(count):
        found = checked(mutated(random.Random(f"{seed} {number}")))
        if isinstance(found, Config):
            accepted.append(found)
        else:
            refused += 1
    return accepted, refused


def test_a_mutated_config_is_accepted_or_refused_in_one_line():
    accepted, refused = attack(200)
    assert len(accepted) > 5 and refused > 60


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        ("seeds", 2**63, "at most 1,000,000"),
        ("seed", 2**31, "at most 2,147,483,647"),
        ("data.length", 2**31, "at most 16,777,216"),
        ("tokenizer.vocab_size", 2**31, "at most 4,194,304"),
        ("teacher.model.width", 2**40, "at most 262,144"),
        ("student.model.vocab_multiple", 2**31, "at most 65,536"),
        ("student.train.batch_size", 2**28, "at most 2,147,483,647 fit into a batch"),
        ("student.train.steps", 2**63, "at most 1,000,000,000"),
        ("student.train.optimizer.learning_rate", 1e7, "[1e-30, 1e+06]"),
        ("teacher.train.optimizer.warmup_steps", 10**30, "at most 2**64"),
        ("student.train.optimizer.beta2", 1 - 1e-9, "[0, 1)"),
        ("distill.temperature", 1e-30, "[0.001, 1000]"),
        ("cache_dir", "a" * 5000, "at most 4,095 bytes"),
        ("cache_dir", "a\0b", "without NUL"),
    ],
)
def test_a_bound_is_named_with_its_key(key, value, bound):
    config = default()
    *parents, last = key.split(".")
    place = config
    for name in parents:
        place = place[name]
    place[last] = value
    said = checked(config)
    assert isinstance(said, str) and f"config.{key}" in said and bound in said


@pytest.mark.slow
def test_ten_thousand_mutated_configs_neither_fail_nor_hang():
    from kdjax.experiment.setting import check_memory
    from kdjax.models import build
    from kdjax.parallel.sharding import make_mesh
    from kdjax.train.optimizers import make_optimizer

    def late(number, frame):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(3600)
    accepted, refused = attack(10_000, seed=1)
    built = set()
    mesh = make_mesh(Config().mesh)
    for config in accepted:
        teacher = config.teacher.model
        for model in (teacher, student_model(config.student, teacher)):
            sized = ModelConfig(**vars(model) | {"vocab_size": model.vocab_size or 300})
            if sized in built:
                continue
            built.add(sized)
            try:
                check_memory(sized, "config.student.model", mesh, is_trained=True)
            except UsageError:
                refused += 1
                continue
            jax.eval_shape(build(sized).init, jax.random.key(config.seed))
        train = config.student.train
        make_optimizer(train.optimizer, train.steps)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert len(accepted) > 300 and refused > 3000
