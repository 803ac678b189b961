"""SIGTERM ends a command in any stage, and all processes of a run after one step."""

import json
import signal
import time

import pytest
import runs
from runs import ROOT, TWO
from toy_training import metrics

COMMAND = """
import ctypes, time
from kdjax.core import cli, stopping
stopping._patience = 0.2

class Freed:
    def __del__(self):  # what is raised here is dropped
        print("ready", flush=True)
        time.sleep(60)

def main(argv):
    {does}

cli.run(main, stopped="stopped; resume")
"""
# The second waits for ever, and no signal ends that.
STUCK = """mutex = ctypes.create_string_buffer(64)
    print("ready", flush=True)
    for _ in range(2): ctypes.CDLL(None).pthread_mutex_lock(mutex)"""
GOES_ON = "Freed(); time.sleep(60)"
RETURNS = "Freed()"
TRAINS = """Freed()
    with stopping.after_the_step() as stop:
        while not stop.number: time.sleep(0.01)"""
UNWINDS = """with stopping.takes_to_stop(60):
        try: print("ready", flush=True); time.sleep(60)
        finally: time.sleep(0.5); print("unwound")"""


@pytest.mark.parametrize(
    ("does", "number", "code"),
    [
        (STUCK, signal.SIGTERM, 42),
        (STUCK, signal.SIGINT, 130),
        (GOES_ON, signal.SIGTERM, 42),
        (RETURNS, signal.SIGTERM, 42),
        (TRAINS, signal.SIGTERM, 42),
        (UNWINDS, signal.SIGTERM, 42),
    ],
)
def test_a_command_ends_even_where_python_does_not_notice(does, number, code):
    process = runs.start("-c", COMMAND.format(does=does))
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code
    assert errors.splitlines()[-1] == "stopped; resume"
    assert output == ("unwound\n" if does == UNWINDS else "")


RANK = """
import json, os, pathlib, signal, sys, time
import jax
from kdjax.parallel.processes import join_processes
rank = join_processes()
from toy_training import *
directory, steps, at = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
numbers = (signal.SIGTERM,) * (rank == jax.process_count() - 1)
program = make_program(steps)
if at:
    try:
        stop_at(at, program, directory, numbers)
    except SystemExit as stopped:
        print("stopped", flush=True)
        sys.exit(stopped.code)
began = time.monotonic()
found = finish(program, directory, CheckpointConfig(every=10 * steps))
seconds = time.monotonic() - began
if not rank:
    (directory / "found.json").write_text(json.dumps([seconds, *found]))
"""


@pytest.mark.slow
def test_one_process_that_is_told_to_stop_stops_all_after_the_same_step(tmp_path):
    def launch(name, at):
        env = runs.environment(PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
        arguments = ("-c", RANK, tmp_path / name, 8, at)
        command = (TWO[0], "--retries=0", *TWO[1:], *arguments)
        return runs.run(*command, env=env, check=False, timeout=300)

    straight = launch("straight", 0)
    assert straight.returncode == 0, straight.stdout
    stopped = launch("stopped", 5)
    assert stopped.returncode == 42, stopped.stdout
    assert "[0] stopped" in stopped.stdout and "[1] stopped" in stopped.stdout
    assert launch("stopped", 0).returncode == 0
    found = [
        json.loads((tmp_path / name / "found.json").read_text())[1:]
        for name in ("straight", "stopped")
    ]
    assert found[0][0] == found[1][0]
    trained = [[r for r in records if "train/loss" in r] for _, records in found]
    assert [r["train/loss"] for r in trained[0]] == [
        r["train/loss"] for r in trained[1]
    ]


@pytest.mark.slow
def test_a_run_resumes_on_other_devices_and_with_other_processes(tmp_path):
    def train(name, at, *, devices=1, processes=1):
        path = f"{ROOT}:{ROOT / 'tests'}"
        env = runs.environment(devices, PYTHONPATH=path)
        arguments = ("-c", RANK, tmp_path / name, 8, at)
        if processes > 1:
            arguments = (TWO[0], "--retries=0", *TWO[1:], *arguments)
        done = runs.run(*arguments, env=env, check=False, timeout=300)
        assert done.returncode == (42 if at else 0), done.stdout + done.stderr

    train("straight", 0)
    train("moved", 2, devices=8)
    train("moved", 4, processes=2)
    train("moved", 6, devices=2)
    train("moved", 0, processes=2)
    found = [
        json.loads((tmp_path / name / "found.json").read_text())[1:]
        for name in ("straight", "moved")
    ]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    losses = [
        {r["step"]: r["train/loss"] for r in records if "train/loss" in r}
        for _, records in found
    ]
    assert [*losses[1]] == [*range(1, 9)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


FAILS = """
import errno, json, os, pathlib, sys, time
import jax
from kdjax.parallel.processes import join_processes
rank = join_processes()
from toy_training import *
from kdjax.train import manifests, meeting
directory, steps, where = pathlib.Path(sys.argv[1]), 6, sys.argv[2]
full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
if where == "first":  # while it commits
    def seal(place, *arguments):
        if place.name.startswith("2."):
            raise full
        sealed(place, *arguments)
    sealed, manifests.seal = manifests.seal, seal
if where == "second" and rank:  # once it should have written
    def meet(self, *arguments):
        if "save/0" in self._name and self._met == 1:
            raise full
        met(self, *arguments)
    met, meeting.Meeting.__call__ = meeting.Meeting.__call__, meet
if where == "metrics" and not rank:
    from kdjax.train.appending import AppendedFile
    def write(self, *, is_durable=False):
        if is_durable and len(calls) < 1:
            calls.append(None)
            raise full
        return written(self, is_durable=is_durable)
    calls, written, AppendedFile.write = [], AppendedFile.write, write
began = time.monotonic()
found = finish(make_program(steps), directory, CheckpointConfig(every=2, keep=9))
if not rank:
    seconds = time.monotonic() - began
    (directory / "found.json").write_text(json.dumps([seconds, *found]))
"""


@pytest.mark.slow
def test_a_save_that_one_process_cannot_write_makes_no_other_wait(tmp_path):
    found = {}
    for where in ("", "first", "second", "metrics"):
        place = tmp_path / f"at-{where}"
        env = runs.environment(PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
        command = (TWO[0], "--retries=0", *TWO[1:], "-c", FAILS, place, where)
        done = runs.run(*command, env=env, check=False, timeout=300)
        assert done.returncode == 0, done.stdout
        assert done.stdout.count("step 2 could not be written") == bool(where)
        seconds, *found[where] = json.loads((place / "found.json").read_text())
        assert seconds < 60
        steps = {path.name for path in (place / "checkpoints").iterdir()}
        assert steps == ({"4", "6"} if where else {"2", "4", "6"})
    assert len({json.dumps(each) for each in found.values()}) == 1


def steps_of(workdir, run):
    """Returns how many records a run in progress has."""
    path = workdir / run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


STAGES = {
    "start": lambda workdir: (workdir / "config.json").exists(),
    "teacher": lambda workdir: steps_of(workdir, "teacher") > 15,
    "student": lambda workdir: steps_of(workdir, "student-0") > 15,
    "evaluation": lambda workdir: (workdir / "student-0/model/model.json").exists(),
    "twin": lambda workdir: steps_of(workdir, "twin-0") > 15,
    "report": lambda workdir: (workdir / "twin-0/result.json").exists(),
}


@pytest.mark.slow
def test_sigterm_in_every_stage_loses_nothing(tmp_path):
    def arguments(name):
        return runs.experiment(
            *(f"{tmp_path}/*.txt", tmp_path / name, "--config.log_every=1"),
            *(f"--config.cache_dir={tmp_path / name}-cache",),
            *("--config.teacher.train.steps=200", "--config.student.train.steps=200"),
            *("--config.checkpoint.every=90", "--config.evaluate.every=40"),
        )

    runs.write_corpus(tmp_path)
    runs.run(*arguments("straight"))
    workdir, ended = tmp_path / "stopped", []
    for is_there in STAGES.values():
        process = runs.start(*arguments("stopped"))
        while not is_there(workdir) and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        ended.append((process.returncode, errors.splitlines()[-1]))
    assert ended == [(42, "stopped; run the same command again to resume")] * len(
        STAGES
    )
    runs.run(*arguments("stopped"))
    for run in ("teacher", "student-0", "twin-0"):
        assert metrics(workdir / run) == metrics(tmp_path / "straight" / run)
    reports = (runs.read_report(tmp_path / name) for name in ("stopped", "straight"))
    first, second = ([run["final"] for run in report["runs"]] for report in reports)
    assert first == second
