"""Students and twins start from what was cut or found, once for all of them."""

import json
import os
import pathlib
import re
import shutil

import pytest
import runs
from runs import ROOT
from toys import random_params

from kdjax import config as config_lib
from kdjax import models
from kdjax.config import ModelConfig, TokenizerConfig
from kdjax.config.validation import validate
from kdjax.core.errors import UsageError
from kdjax.text.tokenizer import train_tokenizer

PAGE = ROOT / "docs" / "students.md"


def run(texts, workdir, *overrides):
    few = ("--config.student.train.steps=4", "--config.checkpoint.every=2")
    done = runs.run(*runs.experiment(texts, workdir, *few, *overrides))
    return done, runs.read_report(workdir)


def bits(run):
    return run["final"]["validation"]["bits_per_byte"]


@pytest.mark.slow
def test_student_and_twin_start_from_the_same_cut(texts):
    """And so do later seeds, and a student that was stopped does not start again."""
    options = ["--config.student.init=importance", "--config.student.model.heads=1"]
    options += ["--config.student.model.width=24", "--config.student.model.layers=1"]
    done, report = run(texts, "run", *options)
    teacher, start, student, twin = report["runs"]
    assert start["origin"].startswith("cut out of the teacher (layers ")
    assert bits(start) < 8 * 0.9  # bytes at random have 8 bits
    for healed in (student, twin):  # a few steps lead nowhere from random numbers
        assert 0 < bits(start) - bits(healed) < 1.5
    assert bits(student) != bits(twin)
    row = next(x for x in done.stdout.splitlines() if x.startswith("bits/byte"))
    shown = [f"{bits(run):.4f}" for run in (teacher, start, student, twin)]
    assert row.split()[-4:] == shown
    card = json.loads(pathlib.Path("run/student-0/model/model.json").read_text())
    sizes = {"layers": 1, "width": 24, "heads": 1, "head_width": 16, "ffn_width": 128}
    assert sizes.items() <= card["model"].items()

    cut = pathlib.Path("run/cut.json")
    before = cut.read_bytes()
    os.utime(cut, (0, 0))
    shutil.rmtree("run/student-0/model")
    pathlib.Path("run/student-0/result.json").unlink()
    done, again = run(texts, "run", *options, "--config.seeds=2")
    assert "student-0: resuming at step 4" in done.stderr
    assert again["runs"][1] == start
    assert again["runs"][2]["final"] == student["final"]
    assert len(again["runs"]) == 6
    assert cut.read_bytes() == before and cut.stat().st_mtime == 0


def test_a_student_starts_from_a_directory(texts, tmp_path):
    config = ModelConfig(layers=1, width=16, heads=2, vocab_size=257, windows=(9,))
    model = models.build(config)
    tokenizer = train_tokenizer((), TokenizerConfig(kind="bytes"))
    path = tmp_path / "found"
    models.save_pretrained(
        path, model, random_params(model), tokenizer=tokenizer, card="# Found\n"
    )
    _, report = run(
        *(texts, "run", f"--config.student.path={path}"),
        *(f"--config.teacher.path={path}", "--config.tokenizer.kind=file"),
        *(f"--config.tokenizer.path={path}/tokenizer.json", "--config.baseline=False"),
    )
    teacher, start, student = report["runs"]
    assert start["origin"] == f"loaded from {path}"
    assert bits(start) == pytest.approx(bits(teacher))
    assert start["final"]["validation"]["agreement"] == 1
    assert bits(student) != bits(start)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"init": "every_kth", "layer_map": (0, 1)}, "config.student.layer_map"),
        ({"path": "x", "init": "every_kth"}, "config.student.path"),
        ({"path": "x", "layer_map": (0,)}, "config.student.path"),
        ({"calibration_rows": 0}, "config.student.calibration_rows"),
        ({"init": "every_third"}, "config.student.init"),
        ({"layer_map": (0, 2)}, "layer 2"),
        ({"layer_map": ("0",)}, "config.student.layer_map[0]"),
        ({"layer_map": 1}, "config.student.layer_map"),
        ({"init": "first_last", "model": {"width": 97}}, "width = 97"),
    ],
    ids=str,
)
def test_contradictions_are_refused_in_one_line(changes, word):
    config = config_lib.default()
    for name, value in changes.items():
        if isinstance(value, dict):
            config.student[name].update(value)
        else:
            config.student[name] = value
    with pytest.raises(UsageError) as caught:
        validate(config)
    assert "\n" not in str(caught.value)
    assert word in str(caught.value)


def test_the_example_in_the_documentation_runs():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    exec(compile(example, PAGE.name, "exec"), {})
