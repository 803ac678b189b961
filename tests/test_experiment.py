"""Whole experiments, each in processes of its own as a user would start them."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from etils import epath

from kdjax import checkpoint
from kdjax.config import ModelConfig, default
from kdjax.models import build
from kdjax.optimizers import make_optimizer
from kdjax.parsing import from_mapping
from kdjax.state import create_state
from kdjax.validation import validate
from kdjax.writers import read_metrics

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 120


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a small corpus of real text and a cache shared by the runs."""
    place = tmp_path_factory.mktemp("experiment")
    for source in sorted(pathlib.Path(json.__file__).parent.glob("*.py")):
        text = source.read_text()
        parts = [text[i : i + 1500] for i in range(0, len(text), 1500)]
        for number, part in enumerate(parts):
            (place / f"{source.stem}-{number}.txt").write_text(part)
    return place


def command(place, workdir, *overrides):
    return [
        *(sys.executable, "-m", "kdjax.main", "--config=configs/gpt_debug.py"),
        f"--workdir={place / workdir}",
        f"--config.cache_dir={place / 'cache'}",
        "--config.data.source=files",
        f"--config.data.pattern={place}/*.txt",
        "--config.data.validation_fraction=0.2",
        f"--config.student.train.steps={STEPS}",
        *overrides,
    ]


def environment(devices=1):
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(ROOT),
    }


def run(place, workdir, *overrides, devices=1):
    return subprocess.run(
        command(place, workdir, *overrides),
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture(scope="module")
def straight(place):
    """An uninterrupted run; everything else is compared with it."""
    return run(place, "straight")


def final_state(workdir):
    """Returns the last checkpoint of the student: state and data position."""
    directory = epath.Path(workdir) / "student-0"
    card = checkpoint.load_card(directory / "model")
    model = build(from_mapping(ModelConfig, card["model"], "model"))
    config = validate(default())
    optimizer = make_optimizer(config.student.train.optimizer, STEPS)
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: create_state(model, optimizer, key))
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = checkpoint.abstract(shapes, jax.tree.map(lambda _: sharding, shapes))
    saved = checkpoint.Checkpoints(directory / "checkpoints", config.checkpoint)
    assert saved.latest() == STEPS
    return saved.restore(STEPS, like)


def test_a_run_writes_everything_it_promises(place, straight):
    workdir = place / "straight"
    report = json.loads((workdir / "report" / "report.json").read_text())
    assert [r["role"] for r in report["runs"]] == ["teacher", "student", "twin"]
    assert set(report["runs"][1]["final"]) == {"validation"}
    assert report["data"]["splits"]["train"]["sha256"]
    for name in ("report.html", "curves.png", "calibration.png"):
        assert (workdir / "report" / name).stat().st_size > 1000
    assert any((workdir / "student-0" / "tensorboard").iterdir())
    assert str(workdir / "report" / "report.html") in straight.stdout
    assert report["summary"]["verdict"] in straight.stdout


def test_the_teacher_is_its_own_best_student(place, straight):
    report = json.loads((place / "straight" / "report" / "report.json").read_text())
    teacher = report["runs"][0]["final"]["validation"]
    assert teacher["forward_kl"] == pytest.approx(0, abs=1e-6)
    assert teacher["agreement"] == 1
    assert teacher["acceptance"] == pytest.approx(1, abs=1e-6)


def test_student_and_twin_start_alike_and_see_the_same_batches(place, straight):
    hard = {}
    for role in ("student-0", "twin-0"):
        records = read_metrics(epath.Path(place / "straight" / role))
        hard[role] = [r["train/hard"] for r in records if r["step"] == 2]
    # The first update moves them apart by little; other batches would by much.
    assert hard["student-0"] == pytest.approx(hard["twin-0"], rel=1e-2)


def test_a_finished_workdir_answers_at_once_with_its_report(place, straight):
    again = run(place, "straight")
    report = place / "straight" / "report" / "report.html"
    assert again.stdout.strip() == f"finished before; the report: {report}"


def test_resuming_after_a_kill_is_exact_to_the_bit(place, straight):
    every = "--config.checkpoint.every=20"
    process = subprocess.Popen(
        command(place, "killed", every), cwd=ROOT, env=environment()
    )
    student = place / "killed" / "student-0"
    while not (student / "checkpoints" / "40").exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (student / "result.json").exists(), "it was killed too late"
    resumed = run(place, "killed", every)
    assert "student-0: resuming at step" in resumed.stderr
    assert "teacher: loaded from" in resumed.stderr
    (state, position), (straight_state, straight_position) = map(
        final_state, (place / "killed", place / "straight")
    )
    assert position == straight_position
    jax.tree.map(np.testing.assert_array_equal, state, straight_state)
    records = read_metrics(epath.Path(student))
    steps = [r["step"] for r in records if "train/loss" in r]
    assert steps == list(range(2, STEPS + 1, 2)), "a step is missing or there twice"


def test_more_seeds_go_on_in_a_finished_workdir(place, straight):
    more = run(place, "straight", "--config.seeds=2")
    assert "student-0: done before" in more.stderr
    report = json.loads((place / "straight" / "report" / "report.json").read_text())
    assert [r["seed"] for r in report["runs"] if r["role"] == "twin"] == [0, 1]


def test_two_processes_give_the_result_of_one_with_two_devices(place, straight):
    one = (place, "one-process", "--config.baseline=False")
    run(*one, devices=2)
    two = command(place, "two-processes", "--config.baseline=False")
    launcher = [sys.executable, "launch/local.py", "--processes=2", "--devices=1", "--"]
    subprocess.run([*launcher, *two], cwd=ROOT, env=environment(), check=True)
    results = [
        json.loads((place / name / "student-0" / "result.json").read_text())
        for name in ("one-process", "two-processes")
    ]
    scores = [r["final"]["validation"]["cross_entropy"] for r in results]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


@pytest.mark.slow
def test_a_student_can_teach_the_next(place, straight):
    teacher = place / "straight" / "student-0" / "model"
    chained = run(
        *(place, "chained", f"--config.teacher.path={teacher}"),
        "--config.baseline=False",
    )
    assert f"teacher: loaded from {teacher}" in chained.stderr
    report = json.loads((place / "chained" / "report" / "report.json").read_text())
    card = json.loads((teacher / "model.json").read_text())
    assert report["teacher"]["sha256"] == card["sha256"]
    assert report["models"]["teacher"] != {}
    assert dataclasses.asdict(ModelConfig()).keys() == card["model"].keys()
