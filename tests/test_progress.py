"""A run in progress has a page, until its report is there."""

import dataclasses
import json
import re

import pytest
from etils import epath

from kdjax.config import Config
from kdjax.core.errors import UsageError
from kdjax.report.progress import follow, read_progress, write_progress


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
            (workdir / "report").mkdir()
            (workdir / "report" / "report.html").write_text("")

    assert follow(workdir, every=5.0, sleep=sleep) == workdir / "report" / "report.html"
    assert waited == [5.0] * 3
    page = (workdir / "progress.html").read_text()
    assert "refresh" not in page and 'href="report/report.html"' in page


def test_an_experiment_that_has_written_nothing_is_shown_as_begun(tmp_path):
    workdir = begin(tmp_path)
    (workdir / "student-0" / "metrics.jsonl").unlink()
    assert "no run has written" in write_progress(workdir, refresh=1.0).read_text()


def test_another_directory_is_no_experiment(tmp_path):
    with pytest.raises(UsageError, match="holds no experiment"):
        write_progress(epath.Path(tmp_path), refresh=1.0)
