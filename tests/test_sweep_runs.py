"""Sweeps that run: nothing is trained twice, whoever is killed on the way."""

import collections
import errno
import fcntl
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import runs
from etils import epath
from runs import ROOT

from kdjax.checkpoints import native
from kdjax.config import Config
from kdjax.config.parsing import from_mapping
from kdjax.core.errors import UsageError
from kdjax.core.locks import Lock
from kdjax.experiment import shared
from kdjax.experiment.runs import Role
from kdjax.experiment.setting import Setting
from kdjax.experiment.students import Start
from kdjax.experiment.teachers import Teachers
from kdjax.sweeps.bindings import from_flags
from kdjax.sweeps.existence import check_points
from kdjax.sweeps.halving import rungs
from kdjax.sweeps.plan import Sweep
from kdjax.sweeps.points import make_points
from kdjax.sweeps.worker import _reason
from kdjax.train.records import read_metrics

TEMPERATURES = "--set=distill.temperature=[1, 2]"
ALPHAS = "--set=distill.alpha=[0.5, 1]"


def command(texts, *arguments, steps=4):
    pattern = [f"--config.data.pattern={texts}"] if texts else []
    return [
        *("-m", "kdjax.sweep", f"--config={ROOT}/configs/gpt_debug.py"),
        *("--workdir=sweep", "--config.data.source=files", *pattern),
        *("--config.data.validation_fraction=0.2", "--config.data.length=64"),
        f"--config.teacher.train.steps={steps}",
        f"--config.student.train.steps={steps}",
        *("--config.checkpoint.every=2", "--config.evaluate.final_rows=16"),
        *("--config.evaluate.rows=16", "--config.evaluate.batch_size=8"),
        *arguments,
    ]


def sweep(texts, *arguments, code=0, words="", **options):
    said = runs.run(*command(texts, *arguments, **options), check=False, timeout=500)
    assert said.returncode == code, said.stderr
    assert words in said.stderr
    return said


def points():
    index = json.loads(pathlib.Path("sweep/sweep.json").read_text())
    return [pathlib.Path("sweep", point["workdir"]) for point in index["points"]]


def trained():
    """Returns how often each run was trained to its end, by its directory."""
    found = collections.Counter()
    for log in pathlib.Path("sweep/logs").glob("*.log"):
        place = {}
        for line in log.read_text().splitlines():
            if begun := re.match(r"([\w-]+): .* parameters; metrics in (.*)", line):
                place[begun[1]] = begun[2]
            if ended := re.match(r"([\w-]+): step (\d+)/\2,", line):
                found[place[ended[1]]] += 1
    return found


def kinds(found):
    return collections.Counter(pathlib.Path(name).name.split("-")[0] for name in found)


def quality(point, role):
    """Returns the held-out bits/byte in a point's report."""
    found = {run["role"]: run["final"] for run in runs.read_report(point)["runs"]}
    return found[role]["validation"]["bits_per_byte"]


def wait_until(holds, process=None, seconds=240):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def said_in_logs(words):
    logs = pathlib.Path("sweep/logs").glob("*.log")
    return any(words in log.read_text() for log in logs)


def processes_of(directory):
    """Returns the processes that run points in the directory."""
    listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True)
    return [
        int(line.split()[0])
        for line in listed.stdout.splitlines()
        if "kdjax.main" in line and f"--workdir={directory}" in line
    ]


def test_two_workers_share_a_sweep_and_one_may_be_killed(texts, home):
    arguments = command(texts, TEMPERATURES)
    first = runs.start(*arguments)
    wait_until(lambda: said_in_logs("teacher: compiling"), first)
    second = runs.start(*arguments)
    wait_until(lambda: said_in_logs("teacher: step 4/4"), first)
    first.kill()  # its point's process is left alone, and goes on
    first.communicate()
    _, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    found = trained()
    assert set(found.values()) == {1}, found
    assert kinds(found) == {"teacher": 1, "twin": 1, "student": 2}
    assert not processes_of("sweep")
    by_role = [
        {run["role"]: run["final"] for run in runs.read_report(point)["runs"]}
        for point in points()
    ]
    assert by_role[0]["twin"] == by_role[1]["twin"]
    assert by_role[0]["student"] != by_role[1]["student"]
    for point in points():
        assert (point / "twin-0" / "model" / "model.json").exists()
    # The command of a point is that of an ordinary experiment.
    index = json.loads(pathlib.Path("sweep/sweep.json").read_text())
    words = shlex.split(index["points"][0]["command"])
    assert "finished before" in runs.run(*words[1:]).stdout
    # Finished points are skipped, and a further one finds teacher and twin.
    more = "--set=distill.temperature=[1, 2, 4]"
    said = sweep(texts, more, "--dry_run")
    assert "1 twin " in said.stdout and "3 students" in said.stdout
    assert "one at a time: unknown" not in said.stdout
    before = trained()
    said = sweep(texts, more)
    assert kinds(trained() - before) == {"student": 1}
    best = min(points(), key=lambda point: quality(point, "student"))
    assert said.stdout.startswith("3 of 3 points have finished in sweep; the best ")
    line, *verdict, page = said.stdout.strip().split("\n\n")
    assert line.endswith(f", {best.name}")
    card = json.loads(pathlib.Path("sweep/card/card.json").read_text())
    assert verdict == card["verdict"] and verdict
    assert page == "report card: sweep/card/index.html"
    assert best.name in pathlib.Path("sweep/card/index.html").read_text()


@pytest.mark.slow
def test_a_point_that_fails_is_told_and_tried_again(texts, home):
    arguments = [
        f"--set=data.pattern=['{texts}', 'more/*.txt']",
        *("--config.baseline=False", "--workers=2"),
    ]
    os.mkdir("more")
    pathlib.Path("more/broken.txt").write_bytes(b"\xff")
    said = sweep("", *arguments, code=1, words="1 of 2 points failed, such as ")
    good, bad = points()
    failed = json.loads((bad / "failed.json").read_text())
    assert "more/broken.txt" in failed["reason"] and failed["exit_code"] == 2
    assert failed["reason"] in said.stderr.splitlines()[-1]
    assert (good / "report" / "report.json").exists()
    assert not (good / "failed.json").exists()
    os.unlink("more/broken.txt")
    os.rename("texts", "more")
    os.mkdir("texts")
    before = trained()
    sweep("", *arguments)  # the finished point is not looked at again
    assert not (bad / "failed.json").exists()
    # Other paths are held out, so that it is another corpus.
    assert kinds(trained() - before) == {"teacher": 1, "student": 1}
    # A damaged record of a run in progress is refused, in one line.
    run = bad / "student-0"
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"step": \n')
    for made in (bad / "report/report.json", run / "result.json", run / "model"):
        made.unlink() if made.is_file() else made.rename(run / "old")
    sweep(
        "",
        *arguments,
        code=1,
        words="metrics.jsonl has changed; restore one, or delete",
    )
    assert "Traceback" not in json.loads((bad / "failed.json").read_text())["reason"]


def test_a_stopped_sweep_stops_its_points(texts, home):
    process = runs.start(*command(texts, TEMPERATURES))
    wait_until(lambda: said_in_logs("tokenising") or said_in_logs("data: "), process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 42
    assert errors.splitlines()[-1] == "stopped; run the same command again to resume"
    assert not processes_of("sweep")
    assert not list(pathlib.Path("sweep/points").glob("*/failed.json"))


@pytest.mark.slow
def test_a_sweep_killed_twice_trains_nothing_twice(texts, home):
    """4 x 3 points x 2 seeds on two cores, by two workers: 24 students."""
    arguments = command(
        texts,
        "--set=distill.temperature=[1, 2, 4, 8]",
        "--set=distill.alpha=[0.25, 0.5, 1]",
        "--set=seed=[0, 1]",
        steps=20,
    )
    for finished in (2, 9):
        workers = [runs.start(*arguments) for _ in range(2)]
        wait_until(
            lambda n=finished: (
                len(list(pathlib.Path("sweep").glob("points/*/report/report.json"))) > n
            ),
            workers[0],
            seconds=900,
        )
        for process in workers:
            process.kill()
            process.communicate()
        if finished == 9:  # the whole machine dies
            for pid in processes_of("sweep"):
                os.kill(pid, signal.SIGKILL)
    workers = [runs.start(*arguments) for _ in range(2)]
    for process in workers:
        _, errors = process.communicate(timeout=1800)
        assert process.returncode == 0, errors
    found = trained()
    assert set(found.values()) == {1}, found
    assert kinds(found) == {"teacher": 1, "twin": 2, "student": 24}
    assert all((p / "report" / "report.html").exists() for p in points())


@pytest.mark.slow
def test_halving_trains_the_best_points_on(texts, home):
    arguments = [
        "--set=student.train.optimizer.learning_rate=[1e-5, 1e-2, 1e-4]",
        *("--halving=3", "--workers=2"),
    ]
    said = sweep(texts, *arguments, steps=12)
    assert "rung 1 of 2: 3 points, 4 steps" in said.stderr
    assert "rung 2 of 2: 1 point, 12 steps" in said.stderr
    assert "the best: learning_rate=0.01" in said.stderr
    steps = [
        report["config"]["student"]["train"]["steps"]
        for report in map(runs.read_report, points())
    ]
    assert steps == [4, 12, 4]
    best = points()[1]
    for run in ("student-0", "twin-0"):
        curve = json.loads((best / run / "result.json").read_text())["curve"]
        assert curve[-1]["step"] == 12
        records = (best / run / "metrics.jsonl").read_text().splitlines()
        assert json.loads(records[-1])["step"] == 12
    before = trained()
    sweep(texts, *arguments, steps=12)
    assert trained() == before
    for name in ("kept", best.name):
        path = pathlib.Path(f"sweep/rungs/0/{name}.json")
        whole = path.read_text()
        path.write_text("{}")
        if name != "kept":  # who was kept is read again from it
            pathlib.Path("sweep/rungs/0/kept.json").unlink()
        words = f"{path} is damaged; restore it, or halve in another --workdir"
        sweep(texts, *arguments, steps=12, code=2, words=words)
        path.write_text(whole)
    sweep(texts, arguments[0], steps=12, code=2, words="begun with --halving=3")


def test_what_a_point_names_must_exist_before_any_point_runs(home):
    pathlib.Path("quiz.jsonl").write_text('{"prompt": "1", "answer": "2"}\n')
    pathlib.Path("own.py").write_text("def zero(q, labels, over): return 0 * labels\n")
    base = from_mapping(Config, {}, "config")

    def check(key, *values):
        found = make_points(base, from_flags([f"{key}={[*values]}"], [], []))
        check_points(Sweep(epath.Path("sweep"), "", (), base, tuple(found)))

    check("evaluate.tasks", (), ("quiz.jsonl",))
    check("evaluate.metrics", (), ("own:zero",))
    for key, good, bad, words in (
        ("teacher.path", "own.py", "nowhere", "teacher.path=nowhere does not exist"),
        ("evaluate.tasks", ("quiz.jsonl",), ("no.jsonl",), "no.jsonl does not exist"),
        ("evaluate.tasks", ("quiz.jsonl",), ("own.py",), "own.py line 1 is not JSON"),
        ("evaluate.metrics", ("own:zero",), ("own:one",), "has no function 'one'"),
    ):
        with pytest.raises(UsageError, match=rf"^{key.split('.')[1]}=\S+: .*{words}"):
            check(key, good, bad)


def test_a_reason_is_told_with_what_to_do_about_it(home):
    bindings = from_flags(["seed=[1]"], [], [])
    (point,) = make_points(from_mapping(Config, {}, "config"), bindings)
    sweep = Sweep(epath.Path("sweep"), "", (), Config(), (point,))
    sweep.log(point).parent.mkdir(parents=True)
    for length in (10, 500, 10_000):
        sweep.log(point).write_text(f"said\nerror: {'path ' * length}; delete one\n")
        reason = _reason(sweep, point, 2)
        assert reason.startswith("path ") and reason.endswith("; delete one")
        assert len(reason) < 1100


def test_a_copy_that_was_interrupted_is_removed_by_who_makes_the_next(
    tmp_path, monkeypatch
):
    place, config = epath.Path(tmp_path), Config()
    steps = config.student.train.steps
    (place / "plans.json").write_text(json.dumps({"steps": [2, steps]}))
    monkeypatch.setattr(shared, "_identity", lambda *arguments: {})
    setting = Setting(config, place, *[None] * 5, shared=place / "s")
    role, start = Role("twin", ()), Start(None)
    twin = shared.SharedTwin(role, 0, start, Teachers({}, {}), setting)
    earlier = twin._directory((2,))
    monkeypatch.setattr(native, "is_model", lambda path: path.exists())
    other = place / "s" / "twin-ab-0.0123.tmp"
    for directory in (earlier, place / "s" / f"{twin.directory.name}.ab12.tmp", other):
        (directory / "model").mkdir(parents=True)
    twin.begin()
    left = {path.name for path in (place / "s").iterdir()}
    assert left == {earlier.name, twin.directory.name, other.name}


def test_rungs():
    assert rungs(24, 500, 3) == [(24, 19), (8, 56), (3, 167), (1, 500)]
    assert rungs(1, 5, 2) == [(1, 5)]
    assert rungs(4, 4, 2) == [(4, 1), (2, 2), (1, 4)]
    with pytest.raises(UsageError, match="needs 4 steps"):
        rungs(3, 3, 2)


def plain(texts, *arguments, **options):
    return sweep(texts, *arguments, "--commands=plain", **options)


def test_a_directory_belongs_to_one_sweep(texts, home):
    plain(texts, TEMPERATURES)
    refused = {
        "other points: 2 of its 2, such as temperature=1.0": [ALPHAS],
        "other points: 1 of its 2": ["--set=distill.temperature=[2, 4]"],
        "config.data.length is 64 there and 32 now": [
            *(TEMPERATURES, "--config.data.length=32")
        ],
        "begun with --halving=0": [TEMPERATURES, "--halving=2"],
    }
    for words, arguments in refused.items():
        if "--halving=2" in arguments:
            sweep(texts, *arguments, code=2, words=words)
        else:
            plain(texts, *arguments, code=2, words=words)
    plain(texts, "--set=distill.temperature=[4, 2, 1]", "--config.log_every=3")
    assert len(points()) == 3
    for damaged in ("{", "[]", '{"points": [1]}', '{"base": {}, "points": [{}]}'):
        pathlib.Path("sweep/sweep.json").write_text(damaged)
        plain(texts, TEMPERATURES, code=2, words="sweep.json")


def test_what_is_no_sweep_s_directory_is_left_alone(texts, home):
    for name in ("config.json", "notes.txt"):
        (home / "sweep").mkdir()
        (home / "sweep" / name).write_text("{}")
        plain(texts, TEMPERATURES, code=2, words="holds no sweep")
        assert [path.name for path in (home / "sweep").iterdir()] == [name]
        (home / "sweep" / name).unlink()
        (home / "sweep").rmdir()
    (home / "sweep").write_text("")
    plain(texts, TEMPERATURES, code=2, words="cannot write to sweep")


def holder(path):
    """Starts a process that takes a lock and keeps it."""
    code = (
        "import sys, time\n"
        "from etils import epath\n"
        "from kdjax.core.locks import Lock\n"
        "lock = Lock(epath.Path(sys.argv[1]))\n"
        "print(lock.try_to_take(), flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=runs.environment(),
    )
    assert process.stdout.readline() == "True\n"
    return process


def test_a_lock_ends_with_its_owner(tmp_path):
    path = epath.Path(tmp_path) / "locks" / "point.lock"
    process, lock = holder(path), Lock(path)
    try:
        assert not lock.try_to_take()
        assert f"process {process.pid} on " in lock.owner()
    finally:
        process.kill()
        process.wait()
    assert path.exists()  # and means nothing
    assert lock.try_to_take()
    assert f"process {os.getpid()} on " in lock.owner()
    lock.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch, capsys, code):
    def refuse(*arguments):
        raise OSError(code, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UsageError, match=r"has no locks .*No locks available"):
        Lock(epath.Path(tmp_path) / "point.lock").try_to_take()
    # An experiment alone needs none.
    with Lock(epath.Path(tmp_path) / "rows.lock").held("rows", is_needed=False):
        assert "note: rows: no lock" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": "1"}', "\x00"])
def test_damaged_metrics_are_refused_with_file_and_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n{{"st')
    with pytest.raises(UsageError, match=rf"jsonl, line 2, is damaged.*{tmp_path}"):
        read_metrics(epath.Path(tmp_path))
    path.write_text('{"step": 1}\n{"st')
    assert read_metrics(epath.Path(tmp_path)) == [{"step": 1}]
