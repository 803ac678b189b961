"""The configs of published models: their sizes, and what their docstrings say."""

import dataclasses
import functools
import inspect
import math
import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from toys import FAMILIES

from kdjax import models
from kdjax.config.student_rules import student_model
from kdjax.config.validation import check_batches, validate
from kdjax.core.errors import UsageError
from kdjax.models.transformer.decoder import table_size
from kdjax.parallel.sharding import DEFAULT_RULES, _spec

CONFIGS = Path(__file__).parents[1] / "configs"
# Of the checkpoints on the hub, without Gemma's vision tower.
PUBLISHED = {
    "llama3_8b_to_1b": (8_030_261_248, 1_235_814_400),
    "qwen3_32b_to_4b": (32_762_123_264, 4_022_468_096),
    "gemma3_12b_to_1b": (11_766_034_176, 999_885_952),
}
ROW = re.compile(r"^ {4}(\S.*?) +(\d+)  data=(\d+) fsdp=(\d+) +([\d.]+)$", re.M)


@functools.cache
def load(name):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))


def architectures(config, vocab_size=0):
    """Returns teacher and student, the ids filled in as the tokenizer's."""
    both = config.teacher.model, student_model(config.student, config.teacher.model)
    ids = [model.vocab_size or vocab_size for model in both]
    return [
        dataclasses.replace(m, vocab_size=n) for m, n in zip(both, ids, strict=True)
    ]


@functools.cache
def shapes(model):
    return jax.eval_shape(models.build(model).init, jax.random.key(0))


def count(model):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes(model)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_teacher_and_student_have_the_published_parameters(name):
    config = validate(load(name)["get_config"]())
    found = architectures(config)
    assert tuple(map(count, found)) == PUBLISHED[name]
    for model in found:
        assert table_size(model) == model.vocab_size  # nothing of it is padding
    rows = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    student = models.build(found[1])
    logits = jax.eval_shape(student.logits, shapes(found[1]), rows, rows)
    assert logits.shape == (1, 8, found[1].vocab_size)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_pruned_student_fits_its_teacher_and_another_argument_is_refused(name):
    get_config = load(name)["get_config"]
    config = validate(get_config("pruned"))
    assert config.student.is_pruned
    student = architectures(config)[1]  # raises unless it can be pruned from it
    own, whole = validate(get_config()).student.model, config.teacher.model
    for size in ("layers", "width", "ffn_width"):
        assert getattr(student, size) == getattr(own, size) < getattr(whole, size)
    assert f"{count(student):,}" in load(name)["__doc__"]
    with pytest.raises(UsageError, match=rf"{name}\.py takes 'pruned', not 'prund'"):
        get_config("prund")


@pytest.mark.parametrize("name", [*PUBLISHED, "gpt2_124m"])
def test_the_docstring_s_table_is_right(name):
    """Each mesh divides parameters and batch, and a chip holds what is said."""
    module = load(name)
    config = validate(module["get_config"]())
    teacher, student = architectures(config, 50_257)
    for model in (teacher, student):
        assert f"{count(model):,}" in module["__doc__"]
    rows = ROW.findall(module["__doc__"])
    assert len(rows) >= 5
    for _, chips, data, fsdp, held in rows:
        shards = int(data) * int(fsdp)
        assert shards == int(chips)
        batch = max(shards, config.evaluate.batch_size)
        evaluated = dataclasses.replace(config.evaluate, batch_size=batch)
        check_batches(dataclasses.replace(config, evaluate=evaluated), shards)
        teacher_bytes = 2 if config.teacher.path else 4
        size = (teacher_bytes * count(teacher) + 16 * count(student)) / int(fsdp)
        assert float(held) == round(size / 1e9, 3)
        for model in (teacher, student):
            check_divides(model, int(fsdp))


def check_divides(model, fsdp):
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes(model)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = _spec(name, len(leaf.shape), DEFAULT_RULES)
        for size, axis in zip(leaf.shape, spec, strict=False):
            assert axis != "fsdp" or size % fsdp == 0, (name, leaf.shape)


def test_gpt2_124m_is_gpt2_whose_vocabulary_is_the_tokenizer_s():
    config = validate(load("gpt2_124m")["get_config"]())
    assert config.teacher.model.vocab_size == config.student.model.vocab_size == 0
    teacher, student = architectures(config, config.tokenizer.vocab_size)
    for model, depth in ((teacher, 12), (student, 6)):
        sizes = {"layers": depth, "width": 768, "heads": 12, "max_length": 1024}
        sizes |= {"vocab_size": 50_257, "vocab_multiple": 128}
        speed = {"dtype": "bfloat16", "remat": "dots"}
        assert model == dataclasses.replace(FAMILIES["gpt2"], **sizes, **speed)
    # Its published parameters, and the 47 ids that fill its vocabulary up.
    assert count(teacher) == 124_439_808 + 47 * 768
    # A block of width D has 12 D**2 weights and 13 D biases and scales.
    assert count(teacher) - count(student) == 6 * (12 * 768**2 + 13 * 768)
    rows = jax.ShapeDtypeStruct((2, 1024), jnp.int32)
    logits = jax.eval_shape(models.build(student).logits, shapes(student), rows, rows)
    assert logits.shape == (2, 1024, 50_257)


def test_every_config_s_flags_in_its_docstring_are_keys():
    for path in CONFIGS.glob("*_to_*.py"):
        config = load(path.stem)["get_config"]()
        text = inspect.cleandoc(load(path.stem)["__doc__"])
        flags = re.findall(r"--config\.([\w.]+)", text)
        assert flags
        for flag in flags:
            node = config
            for key in flag.rstrip(".").split("."):
                node = node[key]
