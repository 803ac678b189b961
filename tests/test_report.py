"""The console, the JSON and the page show the same figures."""

import base64
import dataclasses
import html
import json
import re

import pytest
import runs
from etils import epath
from measurements import (
    make_ensemble_results,
    make_results,
    make_run,
    with_run,
    with_test_split,
)

from kdjax import report
from kdjax.config import DistillConfig, ScheduleConfig
from kdjax.report.summary import summarise
from kdjax.results.files import read
from kdjax.results.measured import CurvePoint, TeacherInfo


def test_best_comes_from_the_curve_and_final_from_the_evaluation():
    results = make_results(student=[1.2], twin=[1.3])
    first, _, last = results.runs[1].curve
    curve = first, CurvePoint(50, 1.9, 1.1234), last
    results = with_run(results, 1, curve=curve)
    lines = report.table(results).splitlines()
    (best,) = (line for line in lines if line.startswith("best bits/byte"))
    (step,) = (line for line in lines if line.startswith("best at"))
    assert best.split()[-3:] == ["1.0100", "1.1234", "1.3100"]
    assert step.split()[-3:] == ["100", "50", "100"]


def test_a_loaded_teacher_has_no_course_to_show():
    results = make_results(student=[1.2], twin=[1.3])
    results = with_run(results, 0, curve=(), training=None)
    table = report.table(results)
    for label in ("best bits/byte", "training tokens/s", "training CPU-seconds"):
        (row,) = (line for line in table.splitlines() if line.startswith(label))
        assert row.split()[-3] == "-"
    assert "MFU" not in table  # known for no model


def test_the_page_needs_nothing_else_and_shows_the_console_s_figures(tmp_path):
    results = make_results(student=[1.2, 1.25, 1.22], twin=[1.3, 1.36, 1.31])
    page = report.write(results, epath.Path(tmp_path))
    source = page.read_text()
    links = re.findall(r"""(?:src|href)=["']?([^"'\s>]*)""", source)
    embedded = [base64.b64decode(link.partition("base64,")[2]) for link in links]
    embedded = [content for content in embedded if content]
    plots = [tmp_path / f"{n}.png" for n in ("curves", "entropy", "calibration")]
    assert embedded == [plot.read_bytes() for plot in plots]
    assert [link for link in links if not link.startswith("data:")] == [
        "#after-passage"
    ]
    assert not re.search(r"https?://|url\(|@import|<script|<link", source)

    text = html.unescape(source).replace("\u00a0", " ")
    cells = re.split(r" {2,}|\n", report.table(results))
    figures = [cell for cell in cells if cell[:1].isdigit()]
    assert len(figures) > 50
    assert [figure for figure in figures if f">{figure}<" not in text] == []
    assert summarise(results).verdict in text
    words = " ".join(text.split())
    assert "the teacher's line on all 31, as the results above." in words
    assert "--config.data.test_fraction=0.05 splits off text by which nothing" in words


def test_the_page_is_of_the_test_split_and_says_what_else_is(tmp_path):
    results = make_results(student=[1.2], twin=[1.3])
    tested = with_test_split(results, student=0.5, twin=0.5)
    for index, run in enumerate(tested.runs):
        changed = dataclasses.replace(run.final["test"], by_entropy=())
        tested = with_run(tested, index, final=run.final | {"test": changed})
    page = " ".join(report.write(tested, epath.Path(tmp_path)).read_text().split())
    assert "on all 31, the results above on all 17 of the test split." in page
    assert "of the test split, by which nothing is chosen; the validation" in page
    assert "splits off text" not in page
    assert "Where the student differs" not in page  # of the test split it is not known
    first, *others = report.table(tested).split("\n\n")
    assert first.startswith("held out: test") and "1.7000" in first
    assert re.search("^best validation bits/byte along the run.* 1.2100 ", first, re.M)
    assert [each.split()[2] for each in others] == ["validation", "prose"]


def test_writing_again_replaces_every_file_and_leaves_no_other(tmp_path):
    report.write(make_results(student=[1.2], twin=[1.3]), epath.Path(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    report.write(make_results(student=[1.4], twin=[1.5]), epath.Path(tmp_path))
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(after) == [
        "calibration.png",
        "curves.png",
        "entropy.png",
        "report.html",
        "report.json",
    ]
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"curves.png", "report.html", "report.json"}


def test_a_report_from_before_a_key_came_is_rendered_again(tmp_path):
    old = read(epath.Path(__file__).parent / "report-v1.json")
    page = report.write(old, epath.Path(tmp_path)).read_text()
    assert "on all" in " ".join(page.split())
    assert f"<dd><code>{old.teachers['teacher'].path}</code></dd>" in page
    assert read(epath.Path(tmp_path) / "report.json") == old


def test_where_a_cut_student_starts_is_a_column_and_changes_no_verdict(tmp_path):
    results = make_results(student=[1.2, 1.3], twin=[1.4, 1.5])
    verdict = summarise(results).verdict
    origin = "cut out of the teacher (layers 0, 2 of 3)"
    start = make_run("start", 0, 5.4321, curve=(), training=None, origin=origin)
    teacher, *others = results.runs
    results = dataclasses.replace(results, runs=(teacher, start, *others))
    header, *_ = table = report.table(results).splitlines()
    assert header.split()[-4:] == ["teacher", "start", "student", "twin"]
    (row,) = (
        line for line in table if line.startswith("bits/byte ↓") and "5.4" in line
    )
    assert "5.4321" in row
    assert summarise(results).verdict == verdict
    page = report.write(results, epath.Path(tmp_path)).read_text()
    assert f'began with the column "start", {origin}.' in page
    assert f"began as: {origin}\n" in report.model_card(results, "twin-0")


def test_a_loaded_teacher_s_precision_stands_beside_its_figures(tmp_path):
    results = make_results(student=[1.2], twin=[1.3])
    label, words = "weights as stored", "4-bit weights (Q4_1, F32)"
    assert label not in report.table(results)  # a trained one has nothing to say
    assert "bit weights" not in report.model_card(results, "student-0")
    teacher = TeacherInfo("teacher", "ef" * 32, False, formats=("Q4_1", "F32"))
    results = dataclasses.replace(results, teachers={"teacher": teacher})
    (row,) = (
        line for line in report.table(results).splitlines() if line.startswith(label)
    )
    assert row.split()[-3:] == ["4-bit", "-", "-"]
    assert f"parameters, {words}, teacher" in report.model_card(results, "student-0")
    assert (
        f"<dd>{words}</dd>" in report.write(results, epath.Path(tmp_path)).read_text()
    )


def test_values_cannot_inject_html(tmp_path):
    hostile = "<script>alert(1)</script>"
    results = make_results(student=[1.2])
    config, replace = results.config, dataclasses.replace
    results = replace(
        make_ensemble_results(student=[1.2], members={hostile: [1.3]}),
        workdir=hostile,
        data=replace(results.data, source=hostile),
        environment=replace(results.environment, device=hostile),
        config=replace(config, data=replace(config.data, pattern=hostile)),
        teachers={hostile: TeacherInfo(hostile, hostile, False, formats=(hostile,))},
    )
    page = report.write(results, epath.Path(tmp_path)).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_schedule_is_shown_with_both_ends(tmp_path):
    results = make_results(student=[1.2])
    distill = DistillConfig(alpha=ScheduleConfig(start=1.0, end=0.25))
    config = dataclasses.replace(results.config, distill=distill)
    results = dataclasses.replace(results, config=config)
    page = report.write(results, epath.Path(tmp_path)).read_text()
    assert "1 to 0.25 (linear)" in page


@pytest.mark.parametrize(
    ("run", "loss"),
    [
        ("student-0", "loss: forward_kl, alpha 1, temperature 1"),
        ("twin-0", "loss: hard labels alone, as the student's twin"),
    ],
)
def test_a_model_card_says_what_was_done_and_shows_the_report_s_table(run, loss):
    results = make_results(student=[1.2, 1.25], twin=[1.3, 1.36])
    card = report.model_card(results, run)
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"# gpt_small: {run}\n" in card
    assert loss in card
    assert "ef" * 32 in card and "ab" * 32 in card
    assert "- teacher: 2,000,000 parameters" in card
    assert report.table(results) in card
    assert summarise(results).verdict in card


def test_a_model_card_has_the_steps_of_its_own_run():
    results = make_results(student=[1.2], twin=[1.3])
    curve = (CurvePoint(250, 2.0, 1.1),)
    longer = make_run("equal-compute twin", 0, 1.1, curve=curve)
    results = dataclasses.replace(results, runs=(*results.runs, longer))
    for run, steps in (("twin-0", 100), ("equal-compute-twin-0", 250)):
        assert f"- training: {steps} steps of" in report.model_card(results, run)


@pytest.mark.parametrize("path", ["/home/me/models/SmolLM2", "models/SmolLM2"])
def test_a_model_card_names_no_directory_of_the_machine(path):
    results = make_results(student=[1.2], twin=[1.3])
    teacher = dataclasses.replace(results.teachers["teacher"], path=path)
    results = dataclasses.replace(
        results, workdir="/home/me/runs/mine", teachers={"teacher": teacher}
    )
    card = report.model_card(results, "student-0")
    assert "parameters, models/SmolLM2\n" in card and "/home" not in card


def test_the_page_tells_of_skipped_files_only_if_there_are_any(tmp_path):
    results = make_results(student=[1.2], twin=[1.3])
    for count, is_told in ((0, False), (3, True)):
        data = dataclasses.replace(results.data, skipped_files=count)
        found = dataclasses.replace(results, data=data)
        page = report.write(found, epath.Path(tmp_path)).read_text()
        assert ("skipped files" in page) is is_told


def test_several_teachers_are_columns_with_their_own_size_and_origin(tmp_path):
    results = make_ensemble_results(
        student=[1.2], twin=[1.5], members={"wide": [1.3], "deep": [1.4]}
    )
    header, *lines = report.table(results).splitlines()
    assert re.split(" {2,}", header)[1:] == list(summarise(results).roles)
    (sizes,) = (line for line in lines if line.startswith("parameters"))
    assert sizes.split()[2:5] == ["2,000,000", "1,000,000", "1,000,000"]
    page = report.write(results, epath.Path(tmp_path)).read_text()
    text = " ".join(page.split())
    assert "The teacher is the ensemble of wide and deep;" in text
    for name in ("wide", "deep"):
        assert f"<h2>Teacher {name}</h2>" in text
        assert f"<code>teachers/{name}</code>" in text
    card = report.model_card(results, "student-0")
    assert "- teacher wide: 1,000,000 parameters, teachers/wide\n" in card
    assert "- teacher deep: 1,000,000 parameters, teachers/deep\n" in card
    assert "- teacher wide:" not in report.model_card(results, "student-of-deep-0")


def replace_in(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def edit(file, old, new):
    """Replaces text in a file of results, and takes off its checksum."""
    content = json.loads(file.read_text())
    del content["checksum"]
    file.write_text(json.dumps(content, indent=1).replace(old, new))


def test_the_command_renders_again_from_the_stored_numbers(tmp_path):
    page = report.write(
        make_results(student=[1.2], twin=[1.3]), epath.Path(tmp_path) / "report"
    )
    numbers = tmp_path / "report" / "report.json"
    edit(numbers, '"bits_per_byte": 1.2,', '"bits_per_byte": 1.7654,')
    page.unlink()
    done = runs.run("-m", "kdjax.report", f"--workdir={tmp_path}")
    assert "Distillation did not pay" in page.read_text()
    assert "1.7654" in done.stdout
    assert json.loads(numbers.read_text())["summary"]["outcome"] == "lost"


def test_a_missing_report_is_one_line_and_exit_code_2(tmp_path):
    done = runs.run("-m", "kdjax.report", f"--workdir={tmp_path}", check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"there is no {tmp_path}/report/report.json; give the workdir" in done.stderr
    assert done.stdout == ""


def test_a_damaged_report_is_one_line_and_exit_code_2(tmp_path):
    report.write(make_results(student=[1.2]), epath.Path(tmp_path) / "report")
    numbers = tmp_path / "report" / "report.json"
    edit(numbers, '"agreement": 0.71', '"agreement": ""')
    done = runs.run("-m", "kdjax.report", f"--workdir={tmp_path}", check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{numbers}.runs[0].final.validation.agreement must be float" in done.stderr
