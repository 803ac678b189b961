"""Schedules, optimiser, FLOPs and writers do what the run's report rests on."""

import dataclasses
import io
import json
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from toys import FAMILIES, dot_products

from kdjax import models
from kdjax.config import ModelConfig, OptimizerConfig, ScheduleConfig
from kdjax.core.errors import UsageError
from kdjax.core.logging import Progress, mute, say
from kdjax.core.metrics import Mean
from kdjax.models.flops import forward_flops
from kdjax.train.meter import Meter, summary
from kdjax.train.optimizers import make_optimizer
from kdjax.train.records import MetricWriter, read_metrics
from kdjax.train.schedules import learning_rate, make_schedule


def test_a_constant_stays_a_python_number_under_jit():
    seen = []
    jax.jit(lambda step: seen.append(make_schedule(0.3, 10)(step)))(jnp.int32(4))
    assert seen == [0.3]
    assert type(seen[0]) is float


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_ramp_goes_from_its_start_to_its_end_and_stays(kind):
    ramp = make_schedule(ScheduleConfig(kind, start=4.0, end=1.0), steps=8)
    values = [float(ramp(step)) for step in (0, 2, 4, 8, 20)]
    assert values[2] == pytest.approx(2.5)
    assert values[0] == pytest.approx(4.0)
    assert values[3:] == pytest.approx([1.0, 1.0])
    assert values[1] == pytest.approx(
        {"linear": 3.25, "cosine": 3.5607}[kind], abs=1e-3
    )


@pytest.mark.parametrize(
    ("decay", "halfway", "final"),
    [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1.0, 1.0)],
)
def test_the_learning_rate_warms_up_and_decays_to_its_ends(decay, halfway, final):
    config = OptimizerConfig(learning_rate=2.0, warmup_fraction=0.2, decay=decay)
    rate = learning_rate(config, steps=100)
    assert float(rate(0)) == pytest.approx(2.0 / 20)  # the first step is not wasted
    assert float(rate(10)) == pytest.approx(2.0 * 11 / 20)
    assert [float(rate(step)) for step in (19, 20)] == pytest.approx([2.0, 2.0])
    assert float(rate(60)) == pytest.approx(2.0 * halfway)
    assert float(rate(100)) == pytest.approx(2.0 * final)


def test_wsd_stays_at_the_peak_until_its_decay_begins():
    config = OptimizerConfig(
        learning_rate=2.0, warmup_steps=10, decay="wsd", decay_fraction=0.25
    )
    rate = learning_rate(config, steps=100)
    assert [float(rate(step)) for step in (9, 10, 50, 75)] == [2.0] * 4
    assert float(rate(88)) == pytest.approx(2.0 - 1.8 * 13 / 25)
    assert float(rate(100)) == pytest.approx(0.2)


def test_a_warm_up_in_steps_knows_nothing_of_the_run_s_length():
    config = OptimizerConfig(warmup_steps=7, decay="constant")
    short, long = learning_rate(config, 10), learning_rate(config, 1000)
    assert [float(short(s)) for s in range(10)] == [float(long(s)) for s in range(10)]
    assert float(short(5)) < 0.9 * config.learning_rate
    assert float(short(6)) == pytest.approx(config.learning_rate)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 100])
def test_the_learning_rate_is_sound_at_extreme_lengths(steps, fraction):
    config = OptimizerConfig(learning_rate=2.0, warmup_fraction=fraction)
    rates = [float(learning_rate(config, steps)(step)) for step in range(steps)]
    assert all(0.0 < rate <= 2.0 for rate in rates)
    assert max(rates) == 2.0


def test_clipping_bounds_the_gradient_as_a_whole():
    config = OptimizerConfig(clip=1.0, beta1=0.0, warmup_fraction=0.0, weight_decay=0.0)
    optimizer = make_optimizer(config, steps=10)
    params = {"a": {"kernel": jnp.zeros(3)}, "b": {"kernel": jnp.zeros(1)}}
    gradient = {"a": {"kernel": jnp.full(3, 30.0)}, "b": {"kernel": jnp.full(1, 30.0)}}
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(state[1][0].mu["a"]["kernel"], 0.5, rtol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_forward_flops_are_those_of_the_products_in_the_program(name):
    # Padded ids are multiplied too but serve nothing; here there are none.
    config = dataclasses.replace(FAMILIES[name], vocab_size=64)
    model = models.build(config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((3, 16), jnp.int32)
    counted = sum(dot_products(model.logits, params, tokens))
    assert forward_flops(config, length=16) == counted / (3 * 16)


def test_forward_flops_are_what_the_compiler_counts():
    config = ModelConfig(layers=1, width=128, heads=2, vocab_size=512)
    model = models.build(config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((2, 32), jnp.int32)
    analysis = jax.jit(model.logits).lower(params, tokens).compile().cost_analysis()
    # The compiler counts activations and norms as well.
    expected = forward_flops(config, length=32) * 2 * 32
    assert expected < analysis["flops"] < 1.1 * expected


def write(directory, start, steps):
    writer = MetricWriter(directory, start=start, enabled=True)
    for step in steps:
        writer.write(step, {"train/loss": 1.0 / step})
    writer.close()


def test_records_beyond_the_resumed_step_are_dropped(tmp_path):
    directory = epath.Path(tmp_path) / "run"
    write(directory, 0, [1, 2, 3, 4])
    write(directory, 2, [3, 4, 5])
    records = read_metrics(directory)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    assert records[-1] == {"step": 5, "train/loss": 0.2}


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_last_line_cut_short_by_a_kill_is_left_out(tmp_path, cut):
    directory = epath.Path(tmp_path)
    write(directory, 0, [1, 2, 3])
    path = directory / "metrics.jsonl"
    path.write_text(path.read_text()[:-cut])
    assert [record["step"] for record in read_metrics(directory)] == [1, 2]
    write(directory, 3, [4])
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 4]


def test_a_directory_without_metrics_has_no_records(tmp_path):
    assert read_metrics(epath.Path(tmp_path)) == []


class Tracked:
    """What `wandb.init` was asked for, and what its run got."""

    def __init__(self, **settings):
        self.settings, self.logged, self.is_finished = settings, [], False

    def log(self, scalars, step):
        self.logged.append((step, scalars))

    def finish(self):
        self.is_finished = True


def test_weights_and_biases_gets_what_is_on_disk_in_one_run_a_directory(
    tmp_path, monkeypatch
):
    begun = []

    def init(**settings):
        begun.append(Tracked(**settings))
        return begun[-1]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    directories = [epath.Path(tmp_path) / "x" / name for name in ("a", "a", "b")]
    for start, directory in zip((0, 2, 0), directories, strict=True):
        writer = MetricWriter(directory, start=start, enabled=True, wandb="org/mine")
        writer.write(start + 1, {"train/loss": 0.5})
        writer.close()
    first, again, other = begun
    assert first.settings["project"] == "mine" and first.settings["entity"] == "org"
    assert first.settings["name"] == "x/a" and first.settings["resume"] == "allow"
    assert first.settings["id"] == again.settings["id"] != other.settings["id"]
    assert again.logged == [(3, {"train/loss": 0.5})]
    assert all(run.is_finished for run in begun)


def test_a_board_that_refuses_is_one_line(tmp_path, monkeypatch):
    def init(**settings):
        raise RuntimeError("api_key not configured.\nlong story")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.raises(UsageError, match=r"'p': api_key not configured; log in with"):
        MetricWriter(epath.Path(tmp_path) / "a", start=0, enabled=True, wandb="p")


def test_processes_but_the_first_write_nothing(tmp_path):
    writer = MetricWriter(epath.Path(tmp_path) / "run", start=0, enabled=False)
    writer.write(1, {"loss": 1.0})
    writer.close()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets; starts at 0 seconds."""
    now = [0.0]
    monkeypatch.setattr("kdjax.core.logging.time.monotonic", lambda: now[0])
    return now


def test_progress_is_plain_lines_now_and_then_where_there_is_no_terminal(capsys, clock):
    with Progress("student", 100, start=40, unit="step") as progress:
        for _ in range(60):
            clock[0] += 1.0
            progress.update(1, "loss 1.5")
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert "\r" not in captured.err
    assert lines[0] == "student: step 55/100, 45 s left, loss 1.5"
    assert lines[-1] == "student: step 100/100, loss 1.5"
    assert len(lines) == 4


def test_what_is_done_has_no_time_left_whatever_follows(capsys, clock):
    with Progress("student", 2, unit="step") as progress:
        for _ in range(2):
            clock[0] += 1.0
            progress.update(1, besides=2.0)
    assert capsys.readouterr().err == "student: step 2/2\n"


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("student", 4, unit="step") as progress:
        progress.update(4, "loss 1.5")
    assert "\rstudent: 100%" in terminal.getvalue()


def test_progress_of_other_processes_is_silent(capsys, clock):
    with Progress("student", 4, unit="step", enabled=False) as progress:
        clock[0] += 100.0
        progress.update(4)
    assert capsys.readouterr().err == ""


def left(line):
    return float(re.search(r", (\d+) s left", line).group(1))


@pytest.mark.parametrize("warm_up", [0.1, 40.0])
def test_the_first_step_says_nothing_of_the_time_left(capsys, clock, warm_up):
    with Progress("student", 600, unit="step") as progress:
        clock[0] += warm_up
        progress.update(1, "loss 9.5")
        for _ in range(2, 40):
            clock[0] += 0.5
            progress.update(1)
    lines = capsys.readouterr().err.splitlines()
    if warm_up > 15:
        assert lines.pop(0) == "student: step 1/600, loss 9.5"
    done = int(re.search(r"step (\d+)/", lines[0]).group(1))
    assert left(lines[0]) == pytest.approx(0.5 * (600 - done), abs=1)


@pytest.mark.parametrize("start", [0, 200])
@pytest.mark.parametrize("step_time", [0.3, 4.0])
def test_the_time_left_is_right_from_the_second_pause_on(
    tmp_path, capsys, clock, monkeypatch, start, step_time
):
    monkeypatch.setattr("kdjax.train.meter.time.perf_counter", lambda: clock[0])
    every, steps, said = (20, 50), 400, []
    meter = Meter(
        *("student", epath.Path(tmp_path)),
        **dict(start=start, steps=steps, tokens=8, flops=1.0),
        **dict(every=every, pauses=every),
    )
    values = {"loss": Mean(1.0, 1.0), "skipped": Mean(0.0, 1.0)}
    clock[0] += 60.0  # what the first step waits for
    for step in range(start + 1, steps + 1):
        clock[0] += step_time
        meter.record(step, values)
        if step == steps or not step % 20 or not step % 50:
            meter.catch_up()
            clock[0] += 50.0 if step == start + 20 else 6.0  # the first one compiles
            meter.resume()
        said += [
            (clock[0], step, line) for line in capsys.readouterr().err.splitlines()
        ]
    meter.close()
    checked = [(now, line) for now, n, line in said if start + 60 < n < steps]
    assert len(checked) > 4
    for now, line in checked:
        assert left(line) == pytest.approx(clock[0] - now, rel=0.05, abs=8)


def test_a_process_that_is_not_the_first_says_nothing(capsys, clock, monkeypatch):
    monkeypatch.setattr("kdjax.core.logging._is_muted", False)
    say("loud")
    mute()
    say("data: 3 rows")
    with Progress("student", 4, unit="step") as progress:
        clock[0] += 100.0
        progress.update(4)
    assert capsys.readouterr().err == "loud\n"


def step_record(step, **perf):
    return {"step": step, "train/loss": 2.0} | {f"perf/{k}": v for k, v in perf.items()}


def test_cpu_seconds_of_all_steps_follow_from_those_that_are_known():
    """An older version, which began the run, did not count them."""
    held_out = {"step": 10, "eval/bits_per_byte": 3.0}
    counted = [step_record(20, cpu_seconds=5.0), step_record(40, cpu_seconds=7.0)]
    assert summary([step_record(10), held_out, *counted]).cpu_seconds == 16.0
    assert summary([step_record(10), held_out]).cpu_seconds is None
    assert summary([]).cpu_seconds is None
