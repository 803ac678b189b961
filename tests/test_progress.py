"""A run in progress has a page, until its report is there."""

import dataclasses
import json
import re

import pytest
from etils import epath
from measurements import make_results, make_run

from kdjax.config import Config
from kdjax.config.parsing import from_mapping
from kdjax.core.errors import UsageError
from kdjax.core.files import write_json
from kdjax.report import write
from kdjax.report.progress import follow, read_progress, write_progress
from kdjax.results.files import WORK
from kdjax.results.measured import CurvePoint


def begin(workdir):
    """Writes what a run of 100 steps has left after 20, and a half written line."""
    workdir = epath.Path(workdir)
    config = Config()
    student = dataclasses.replace(config.student.train, steps=100)
    config = dataclasses.replace(
        config, student=dataclasses.replace(config.student, train=student)
    )
    (workdir / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    records = [
        {"step": 10, "train/loss": 3.5, "perf/tokens_per_second": 1234.0},
        {"step": 10, "eval/cross_entropy": 3.0, "eval/bits_per_byte": 2.5},
        {"step": 20, "train/loss": 3.25, "perf/tokens_per_second": 2345.0},
    ]
    (workdir / "student-0").mkdir()
    text = "".join(json.dumps(record) + "\n" for record in records)
    (workdir / "student-0" / "metrics.jsonl").write_text(text + '{"step": 30, "tr')
    return workdir


def finish(workdir):
    """Writes the report of the config that the directory has."""
    config = from_mapping(Config, json.loads((workdir / "config.json").read_text()), "")
    results = make_results(student=[1.2], twin=[1.3])
    write(dataclasses.replace(results, config=config), workdir / "report")


def steps_of(workdir):
    return {run.name: run.steps for run in read_progress(workdir)}


def test_the_page_shows_how_far_a_run_is(tmp_path):
    workdir = begin(tmp_path)
    (run,) = read_progress(workdir)
    assert (run.name, run.step, run.steps) == ("student-0", 20, 100)
    assert (run.loss, run.tokens_per_second) == (3.25, 2345.0)
    assert run.curve == [(10, 2.5)]
    page = write_progress(workdir, refresh=10.0).read_text()
    assert '<meta http-equiv="refresh" content="10">' in page
    assert "student-0 at step 20 of 100" in page
    assert not re.search(r"https?://|url\(|<script|<link", page)


def test_it_is_rewritten_until_the_report_is_there_and_then_no_more(tmp_path):
    workdir, waited = begin(tmp_path), []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            finish(workdir)

    assert follow(workdir, every=5.0, sleep=sleep) == workdir / "report" / "report.html"
    assert waited == [5.0] * 3
    page = (workdir / "progress.html").read_text()
    assert "refresh" not in page and 'href="report/report.html"' in page


def test_a_report_of_fewer_steps_is_not_that_of_the_run(tmp_path):
    workdir, waited = begin(tmp_path), []
    write(make_results(student=[1.2], twin=[1.3]), workdir / "report")

    def sleep(seconds):
        waited.append(seconds)
        assert "In progress" in (workdir / "progress.html").read_text()
        finish(workdir)

    follow(workdir, sleep=sleep)
    assert len(waited) == 1


def test_the_steps_of_the_twin_at_equal_compute_are_what_the_run_noted(tmp_path):
    workdir = begin(tmp_path)
    directory = workdir / "equal-compute-twin-0"
    directory.mkdir()
    (directory / "metrics.jsonl").write_text('{"step": 150, "train/loss": 3.0}\n')
    assert steps_of(workdir) == {"student-0": 100, directory.name: None}
    page = write_progress(workdir, refresh=1.0).read_text()
    assert '<td data-column="of">-</td>' in page
    for step, shown in ((120, None), (150, 150)):  # of fewer steps, and of all
        curve = (CurvePoint(step, 2.0, 1.1),)
        run = make_run("equal-compute twin", 0, 1.1, curve=curve)
        write_json(directory / "result.json", dataclasses.asdict(run))
        assert steps_of(workdir)[directory.name] == shown
    # Runs of this version say from the start how many they will be.
    write_json(workdir / WORK, {"work": 1.752})
    assert steps_of(workdir)[directory.name] == 175
    for damaged in ("{", '{"work": NaN}'):
        (workdir / WORK).write_text(damaged)
        assert steps_of(workdir)[directory.name] == 150


def test_an_experiment_that_has_written_nothing_is_shown_as_begun(tmp_path):
    workdir = begin(tmp_path)
    (workdir / "student-0" / "metrics.jsonl").unlink()
    assert "no run has written" in write_progress(workdir, refresh=1.0).read_text()


def test_another_directory_is_no_experiment(tmp_path):
    with pytest.raises(UsageError, match="holds no experiment"):
        write_progress(epath.Path(tmp_path), refresh=1.0)
