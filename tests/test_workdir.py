"""Who a working directory belongs to, and what may be deleted."""

import collections
import dataclasses
import errno
import json
import os
import resource
import shutil
import subprocess

import pytest
from etils import epath

from kdjax.config import (
    Config,
    DistillConfig,
    EvaluateConfig,
    MeshConfig,
    ModelConfig,
    StudentConfig,
    TeacherConfig,
)
from kdjax.core.errors import UsageError
from kdjax.core.files import beside, remove_leftovers
from kdjax.experiment import workdir
from kdjax.experiment.owners import owned
from kdjax.experiment.students import remembered
from kdjax.results.files import read_run

OTHER = Config(distill=DistillConfig(alpha=0.5))
TOKENIZER = {"tokenizer": {"sha256": "b"}}
WEIGHTS = "weights.safetensors"  # somebody's work, in a directory that is not ours


@pytest.fixture
def directory(tmp_path):
    return epath.Path(tmp_path / "run")


@pytest.fixture
def claimed(directory):
    """A directory in which the default experiment has begun."""
    workdir.claim(directory, Config())
    (directory / "student-0").mkdir()
    return directory


def refusal(*arguments, **options):
    with pytest.raises(UsageError) as caught:
        workdir.claim(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(directory):
    return {path.name for path in directory.iterdir()}


def finish(directory, config):
    report = directory / "report"
    report.mkdir(parents=True)
    page = report / "report.html"
    page.write_text("<p>")
    results = json.dumps({"config": dataclasses.asdict(config)})
    (report / "report.json").write_text(results)
    return page


def test_another_config_is_refused_with_the_difference_and_harms_nothing(claimed):
    message = refusal(claimed, OTHER)
    assert "config.distill.alpha is 1.0 there and 0.5 now" in message
    assert "seed" not in message
    assert "--overwrite" in message
    workdir.claim(claimed, Config())
    assert files(claimed) == {"config.json", "student-0"}


@pytest.mark.parametrize(
    "free",
    [
        {"mesh": MeshConfig(data=2, fsdp=2, tensor=2)},
        {"seeds": 3},
        {"cache_dir": "elsewhere"},
        {"log_every": 1},
        {"compile_cache": ""},
        {"profile": "1:2"},
        {"student": StudentConfig(model=ModelConfig(0, 0, 0, remat="block"))},
        {"teacher": TeacherConfig(model=ModelConfig(remat="none"))},
    ],
    ids=lambda free: next(iter(free)),
)
def test_what_changes_no_result_may_change_between_two_starts(claimed, free):
    workdir.claim(claimed, Config(**free))
    workdir.claim(claimed, Config())


def test_a_key_that_came_later_had_its_default(claimed):
    path = claimed / "config.json"
    config = json.loads(path.read_text())
    del config["evaluate"]["final_rows"], config["student"]["train"]["chunk_size"]
    del config["checksum"]
    path.write_text(json.dumps(config))
    workdir.claim(claimed, Config())
    changed = Config(evaluate=EvaluateConfig(final_rows=8))
    assert "config.evaluate.final_rows is 0 there" in refusal(claimed, changed)


def test_a_finished_experiment_is_finished_for_keys_that_came_later(claimed):
    page = finish(claimed, Config())
    path = claimed / "report" / "report.json"
    report = json.loads(path.read_text())
    del report["config"]["teachers"], report["config"]["teacher"]["weight"]
    path.write_text(json.dumps(report))
    assert workdir.finished_report(claimed, Config()) == page
    assert workdir.finished_report(claimed, OTHER) is None


def test_overwrite_deletes_the_experiment_that_was_there(claimed):
    workdir.claim(claimed, OTHER, overwrite=True)
    assert files(claimed) == {"config.json"}
    (claimed / "student-0").mkdir()
    refusal(claimed, Config())
    workdir.claim(claimed, OTHER)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "config",
    [None, '{"architectures": ["GPT2LMHeadModel"]}', "{", "[]"],
    ids=["no config.json", "of a pretrained model", "broken", "a list"],
)
def test_a_directory_that_is_no_experiment_is_left_alone(directory, config, overwrite):
    directory.mkdir()
    (directory / WEIGHTS).write_text("precious")
    if config is not None:
        (directory / "config.json").write_text(config)
    before = files(directory)
    assert str(directory) in refusal(directory, Config(), overwrite=overwrite)
    assert files(directory) == before


def test_an_empty_directory_may_be_claimed_with_and_without_overwrite(directory):
    directory.mkdir()
    workdir.claim(directory, Config(), overwrite=True)
    workdir.claim(directory, Config())


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("place", ["file", "file/run", "/proc/nope"])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path, place, overwrite):
    (tmp_path / "file").write_text("")
    directory = epath.Path(tmp_path / place)
    assert workdir.finished_report(directory, Config()) is None
    message = refusal(directory, Config(), overwrite=overwrite)
    assert str(directory) in message
    assert "choose another --workdir" in message


def test_too_little_space_is_told_in_the_units_of_a_disk(directory, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage(2**40, 2**40 - 5 * 2**20, 5 * 2**20)
    )
    workdir.check_space(directory, 5 * 2**20)
    with pytest.raises(UsageError, match=r"has 5 MiB free .* need 64 MiB"):
        workdir.check_space(directory, 64 * 2**20)


def test_only_this_very_experiment_counts_as_finished(directory):
    config = Config(distill=DistillConfig(temperature=2.0))
    assert workdir.finished_report(directory, config) is None
    page = finish(directory, config)
    assert workdir.finished_report(directory, config) == page
    assert workdir.finished_report(directory, Config()) is None
    more_seeds = dataclasses.replace(config, seeds=3)
    assert workdir.finished_report(directory, more_seeds) is None


def test_half_a_report_is_no_report(directory):
    page = finish(directory, Config())
    page.unlink()
    assert workdir.finished_report(directory, Config()) is None
    page.write_text("<p>")
    for damaged in ('{"config": {', "[]"):
        (directory / "report" / "report.json").write_text(damaged)
        assert workdir.finished_report(directory, Config()) is None


@pytest.mark.parametrize("content", ["{", "[1]", '{"steps": 3}', '{"steps": [9, 2]}'])
def test_damaged_plans_are_told_of_before_anything_runs(claimed, content):
    (claimed / "plans.json").write_text(content)
    message = refusal(claimed, Config())
    assert "plans.json" in message and "restore it, or pass --overwrite" in message
    workdir.claim(claimed, Config(), overwrite=True)
    assert files(claimed) == {"config.json"}


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_what_else_is_damaged_is_a_line_that_says_what_to_do(claimed, content):
    def check(path):
        workdir.check_data(claimed, {"splits": {}, "tokenizer": {"sha256": "ab"}}, {})

    def start(path):
        remembered(path, dict)

    for name, read, remedy in (
        ("data.json", check, "restore it, or pass --overwrite"),
        ("initial.json", start, "delete it to measure this again"),
        ("result.json", read_run, "delete it to measure the run again"),
    ):
        path = claimed / name
        path.write_text(content)
        with pytest.raises(UsageError, match=remedy) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_task_that_changed_is_other_data_unless_the_version_hashed_none(claimed):
    def check(tasks):
        info = {"splits": {}, "tokenizer": {"sha256": "ab"}}
        workdir.check_data(claimed, info, tasks)

    check({})  # as older versions recorded it
    check({"quiz.jsonl": "1", "say.jsonl": "2"})
    with pytest.raises(UsageError, match=r"data: the task quiz.jsonl changed since;"):
        check({"quiz.jsonl": "3", "say.jsonl": "2"})
    check({"quiz.jsonl": "1", "say.jsonl": "2"})


def test_a_write_that_fails_half_way_leaves_what_was_there(directory):
    directory.mkdir()
    path = directory / "result.json"
    workdir.write_json(path, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))  # a disk that is full
    try:
        with pytest.raises(OSError):
            workdir.write_json(path, {"step": "2" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert workdir.read_json(path) == {"step": 1}
    assert files(directory) == {"result.json"}


def test_what_killed_writers_left_goes_and_what_living_ones_write_stays(directory):
    directory.mkdir()
    path = directory / "result.json"
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine = beside(path)
    killed = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    elsewhere = mine.with_name(mine.name.replace(f"-{os.getpid()}-", "-else-1-"))
    for left in (mine, killed, elsewhere):
        left.write_text("{")
    remove_leftovers(directory, ".")
    assert files(directory) == {mine.name, elsewhere.name}
    os.utime(elsewhere, (0, 0))  # a day later
    remove_leftovers(directory.parent, "*")
    assert files(directory) == {mine.name}


def test_a_start_that_was_killed_while_it_claimed_a_directory_claims_nothing(directory):
    directory.mkdir()
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine = beside(directory / "config.json").name
    left = mine.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    (directory / left).write_text("{")
    workdir.claim(directory, Config(), overwrite=False)
    assert files(directory) == {"config.json"}


def test_a_config_that_is_damaged_says_so_and_overwrite_starts_over(claimed):
    workdir.check_data(claimed, {"splits": {"train": {"sha256": "a"}}, **TOKENIZER}, {})
    path = claimed / "config.json"
    whole = path.read_text()
    for content in ("", "{", whole.replace("128", "129"), whole[:-9], None):
        path.unlink() if content is None else path.write_text(content)
        message = refusal(claimed, Config())
        assert str(path) in message and "another --workdir, this command" in message
        assert files(claimed) >= {"data.json", "student-0"}
    workdir.claim(claimed, OTHER, overwrite=True)
    assert files(claimed) == {"config.json"}


def test_the_config_s_cache_goes_before_the_environment_s(home, monkeypatch):
    def cache(**options):
        return str(workdir.cache_directory(Config(**options)))

    assert cache(cache_dir="~/rows") == str(home / "rows")
    assert cache() == str(home / "cache" / "kdjax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache() == str(home / ".cache" / "kdjax")


def test_a_second_run_in_a_directory_is_refused_by_the_owner_s_name(claimed):
    with owned(claimed, is_first=True, waits=False):
        workdir.claim(claimed, Config(), overwrite=True)  # which keeps the lock
        second = owned(claimed, is_first=True, waits=False)
        with pytest.raises(UsageError, match=rf"in use by process {os.getpid()} on"):
            second.__enter__()
        with owned(claimed, is_first=False, waits=False):
            pass  # the others of a run's processes do not ask
    with owned(claimed, is_first=True, waits=False):
        pass


def test_a_lock_claims_nothing_and_touches_nothing_foreign(directory):
    with owned(directory, is_first=True, waits=False):
        workdir.claim(directory, Config())
    foreign = directory.parent / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    with owned(foreign, is_first=True, waits=False):
        assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


def test_without_locks_a_note_says_so(directory, monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with owned(directory, is_first=True, waits=False):
        pass
    assert "start one run at a time there" in capsys.readouterr().err
