"""Whole experiments: what they write, and that they go on where they were stopped."""

import dataclasses
import inspect
import re
import signal
import struct
import time

import jax
import numpy as np
import pytest
import runs
from etils import epath
from PIL import Image, ImageColor
from runs import read_report, write_corpus
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

import kdjax
from kdjax.checkpoints import native
from kdjax.config import (
    Config,
    DataConfig,
    ModelConfig,
    StudentConfig,
    TrainConfig,
    default,
)
from kdjax.config.parsing import from_mapping
from kdjax.config.validation import validate
from kdjax.core.errors import UsageError
from kdjax.data.documents import split_of
from kdjax.experiment import experiment
from kdjax.models import build
from kdjax.parallel.sharding import abstract
from kdjax.report import table
from kdjax.report.plots.canvas import styles
from kdjax.results.files import from_json
from kdjax.results.measured import Plan
from kdjax.train.checkpoints import Checkpoints
from kdjax.train.optimizers import make_optimizer
from kdjax.train.records import read_metrics
from kdjax.train.state import create_state

STEPS = 80


def arguments(place, name, *overrides):
    return runs.experiment(
        *(f"{place}/*.txt", place / name, f"--config.cache_dir={place}/cache"),
        *(f"--config.student.train.steps={STEPS}", "--config.log_every=1"),
        *("--config.data.test_fraction=0.3", "--config.evaluate.every=40"),
        *overrides,
    )


def run(place, name, *overrides):
    return runs.run(*arguments(place, name, *overrides))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a corpus and a cache shared by the runs."""
    place = tmp_path_factory.mktemp("experiment")
    write_corpus(place)
    return place


@pytest.fixture(scope="module")
def straight(place):
    """An uninterrupted run; everything else is compared with it."""
    return run(place, "straight")


def final_state(workdir):
    """Returns the last checkpoint of the student: state and data position."""
    directory = epath.Path(workdir) / "student-0"
    card = native.load_card(directory / "model")
    model = build(from_mapping(ModelConfig, card["model"], "model"))
    config = validate(default())
    optimizer = make_optimizer(config.student.train.optimizer, STEPS)
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: create_state(model.init, optimizer, key))
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = abstract(shapes, jax.tree.map(lambda _: sharding, shapes))
    saved = Checkpoints(directory, config.checkpoint)
    assert saved.latest() == STEPS
    return saved.restore(STEPS, like)


def board(directory):
    """Yields every scalar that TensorBoard would show, by step and name."""
    for path in directory.iterdir():
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack_from("<Q", data)
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            for start, end in ((0, 8), (12, 12 + size)):
                (checksum,) = struct.unpack_from("<I", data, end)
                assert masked_crc32c(data[start:end]) == checksum
            for scalar in event.summary.value:
                yield (event.step, scalar.tag), np.float32(scalar.simple_value)
            data = data[16 + size :]


def test_a_run_writes_everything_it_promises(place, straight):
    workdir = place / "straight"
    report = read_report(workdir)
    roles = ["teacher", "student", "twin"]
    assert [r["role"] for r in report["runs"]] == roles
    assert set(report["runs"][1]["final"]) == {"validation", "test"}
    config = DataConfig(validation_fraction=0.2, test_fraction=0.3)
    first, *_ = report["runs"][1]["continuations"]
    shown = first["prompt"] + first["expected"]
    paths = [path for path in place.glob("*.txt") if shown in path.read_text()]
    assert "test" in [split_of(str(path), config) for path in paths]
    assert re.fullmatch("[0-9a-f]{64}", report["data"]["splits"]["train"]["sha256"])
    for name in ("curves.png", "calibration.png"):
        plot = np.asarray(Image.open(workdir / "report" / name).convert("RGB"))
        colors = set(map(tuple, plot.reshape(-1, 3).tolist()))
        looks = styles(roles).values()
        assert {ImageColor.getrgb(look["color"]) for look in looks} <= colors, name
    results = from_json(report, "report.json")
    page = (workdir / "report" / "report.html").read_text().replace("&nbsp;", " ")
    figures = [x for x in re.split(r" {2,}|\n", table(results)) if x[:1].isdigit()]
    assert [figure for figure in figures if f">{figure}<" not in page] == []
    student = workdir / "student-0"
    assert dict(board(student / "tensorboard")) == {
        (record["step"], name): np.float32(value)
        for record in read_metrics(epath.Path(student))
        for name, value in record.items()
        if name != "step"
    }
    assert str(workdir / "report" / "report.html") in straight.stdout
    assert report["summary"]["verdict"] in straight.stdout


def test_the_teacher_is_its_own_best_student(place, straight):
    report = read_report(place / "straight")
    teacher = report["runs"][0]["final"]["validation"]
    assert teacher["forward_kl"] == pytest.approx(0, abs=1e-6)
    assert teacher["agreement"] == 1
    assert teacher["acceptance"] == pytest.approx(1, abs=1e-6)


def test_student_and_twin_start_alike_and_see_the_same_batches(place, straight):
    hard = {}
    for role in ("student-0", "twin-0"):
        records = read_metrics(epath.Path(place / "straight" / role))
        hard[role] = [r["train/hard"] for r in records if r["step"] == 1]
    # Before any update; the two losses are summed by different programs.
    assert len(hard["student-0"]) == 1
    assert hard["student-0"] == pytest.approx(hard["twin-0"], rel=1e-6)


def test_a_finished_workdir_answers_at_once_with_its_report(place, straight):
    again = run(place, "straight")
    report = place / "straight" / "report" / "report.html"
    assert again.stdout.strip() == f"finished before; the report: {report}"


def test_resuming_after_a_kill_is_exact_to_the_bit(place, straight):
    every = "--config.checkpoint.every=20"
    process = runs.start(*arguments(place, "killed", every))
    student = place / "killed" / "student-0"
    while not (student / "checkpoints" / "20").exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
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
    assert steps == list(range(1, STEPS + 1)), "a step is missing or there twice"


@pytest.mark.slow
def test_more_seeds_go_on_in_a_finished_workdir(place, straight):
    more = run(place, "straight", "--config.seeds=2")
    assert "student-0: done before" in more.stderr
    report = read_report(place / "straight")
    assert [r["seed"] for r in report["runs"] if r["role"] == "twin"] == [0, 1]


def test_raised_steps_make_a_new_student_like_the_finished_ones(place, straight):
    changes = [
        *("--config.student.train.steps=90", "--config.seeds=2"),
        "--config.baseline=both",
    ]
    extended = run(place, "straight", *changes, "--config.checkpoint.every=30")
    assert "steps raised from 80: every student" in extended.stderr
    assert "student-0: resuming at step 80 of 90" in extended.stderr
    rates = {}
    for name in ("student-0", "student-1", "twin-0", "twin-1"):
        records = read_metrics(epath.Path(place / "straight" / name))
        logged = {r["step"]: r for r in records if "train/loss" in r}
        assert [*logged] == [*range(1, 91)]
        rates[name] = [r["train/learning_rate"] for r in logged.values()]
    assert all(found == rates["student-0"] for found in rates.values())
    results = from_json(read_report(place / "straight"), "report.json")
    found = {run.name: run for run in results.runs}
    assert {found[name].steps for name in rates} == {90}
    plans = {found[name].training.plans for name in rates}
    assert plans == {(Plan(0, 80), Plan(80, 90))}
    longer = found["equal-compute-twin-0"]
    work = longer.steps / 90
    student, teacher = (results.models[name] for name in ("student", "teacher"))
    # Nearly: in a small model attention and the embedding weigh differently.
    expected = 1 + teacher.parameters / (3 * student.parameters)
    assert work == pytest.approx(expected, rel=0.2)
    assert longer.training.plans == (
        Plan(0, round(80 * work)),
        Plan(round(80 * work), longer.steps),
    )
    assert found["equal-compute-twin-1"].steps == longer.steps
    page = (place / "straight" / "report" / "report.html").read_text()
    assert "80, then on to 90" in page
    shorter = runs.run(*arguments(place, "straight"), check=False)
    assert shorter.returncode == 2
    assert "config.student.train.steps is 90 there and 80 now" in shorter.stderr


@pytest.mark.slow
def test_a_student_can_teach_the_next(place, straight):
    teacher = place / "straight" / "student-0" / "model"
    chained = run(
        *(place, "chained", f"--config.teacher.path={teacher}"),
        "--config.baseline=False",
    )
    assert f"teacher: loaded from {teacher}" in chained.stderr
    report = read_report(place / "chained")
    card = native.load_card(epath.Path(teacher))
    assert report["teachers"]["teacher"]["sha256"] == card["sha256"]
    before = read_report(place / "straight")
    assert (
        report["models"]["teacher"]["parameters"]
        == (before["models"]["student"]["parameters"])
    )
    found, known = report["runs"][0]["final"], before["runs"][1]["final"]
    bits = [final["validation"]["bits_per_byte"] for final in (found, known)]
    assert bits[0] == pytest.approx(bits[1], rel=1e-6)
    assert dataclasses.asdict(ModelConfig()).keys() == card["model"].keys()


def test_whoever_runs_an_experiment_claims_its_directory(home):
    config = default()
    config.data.update(source="files", pattern="nothing/*.txt")
    with pytest.raises(UsageError, match="matches no"):
        experiment.run(config, "~/run")
    assert [path.name for path in (home / "run").iterdir()] == ["config.json"]
    (home / "run" / "student-0").mkdir()
    with pytest.raises(UsageError, match="belongs to a different config"):
        experiment.run(Config(), home / "run")
    with pytest.raises(UsageError, match="matches no"):
        experiment.run(config, home / "run", overwrite=True)
    assert not (home / "run" / "student-0").exists()
    (home / "other").mkdir()
    (home / "other" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="holds no experiment"):
        experiment.run(config, home / "other", overwrite=True)


def test_run_takes_what_the_command_takes(home, monkeypatch):
    assert (
        inspect.signature(kdjax.run).parameters.keys()
        == inspect.signature(experiment.run).parameters.keys()
    )
    given = {}

    def stop(config, workdir, **options):
        given.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        kdjax.run(kdjax.load_config("kdjax:gpt_debug"), "run", shared="shared")
    assert given == {"overwrite": False, "shared": "shared"}


def test_a_config_made_in_python_is_checked_as_well():
    mistaken = Config(student=StudentConfig(train=TrainConfig(steps=0)))
    with pytest.raises(UsageError, match=r"config\.student\.train\.steps must be at"):
        experiment.run(mistaken, "run")
