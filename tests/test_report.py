"""The report says what the numbers say, and nothing more."""

import base64
import copy
import json
import re
import subprocess
import sys

import pytest
from etils import epath

from kdjax import config as config_lib
from kdjax import report

BINS = [
    {"confidence": 0.25, "accuracy": 0.2, "count": 30},
    {"confidence": 0.0, "accuracy": 0.0, "count": 0},
    {"confidence": 0.85, "accuracy": 0.7, "count": 10},
]
SIZES = {
    "documents": 3,
    "bytes": 9_000,
    "tokens": 4_000,
    "rows": 31,
    "sha256": "ab" * 32,
}


def make_run(role, seed, bits_per_byte):
    def final(value):
        return {
            "cross_entropy": 1.75 * value,
            "bits_per_byte": value,
            "forward_kl": 0.3,
            "reverse_kl": 0.4,
            "agreement": 0.71,
            "acceptance": 0.66,
            "calibration_error": 0.025,
            "calibration": copy.deepcopy(BINS),
        }

    curve = [(0, 8.0), (50, bits_per_byte + 0.5), (100, bits_per_byte + 0.01)]
    return {
        "role": role,
        "seed": seed,
        "curve": [
            {"step": step, "bits_per_byte": value, "cross_entropy": 1.75 * value}
            for step, value in curve
        ],
        "final": {
            "validation": final(bits_per_byte),
            "prose": final(bits_per_byte + 1),
        },
        "training": {
            "steps": 100,
            "tokens_per_second": 41_234.0 + seed,
            "seconds": 80.0,
            "mfu": None,
            "skipped_steps": 0,
        },
    }


def make_results(*, student, twin=(), teacher=1.0):
    runs = [make_run("teacher", 0, teacher)]
    for role, scores in (("student", student), ("twin", twin)):
        runs += [make_run(role, seed, score) for seed, score in enumerate(scores)]
    return {
        "created": "2026-11-22T04:00:00+00:00",
        "workdir": "runs/gpt_small",
        "config": config_lib.default().to_dict(),
        "environment": {
            "python": "3.11.7",
            "jax": "0.10.2",
            "platform": "cpu",
            "device": "cpu",
            "devices": 1,
            "processes": 1,
        },
        "data": {
            "source": "stdlib",
            "length": 128,
            "python": "3.11.7",
            "skipped_files": 0,
            "tokenizer": {"kind": "bpe", "vocab_size": 1024, "sha256": "cd" * 32},
            "splits": {name: SIZES for name in ("train", "validation", "prose")},
        },
        "teacher": {"path": "teacher", "sha256": "ef" * 32, "trained_here": True},
        "models": {
            "teacher": {"parameters": 2_000_000, "forward_tokens_per_second": 3e4},
            "student": {"parameters": 330_000, "forward_tokens_per_second": 1.2e5},
        },
        "runs": runs,
    }


def test_a_student_worse_than_its_twin_is_called_lost():
    summary = report.summarise(make_results(student=[1.6], twin=[1.5]))
    assert summary["outcome"] == "lost"
    assert summary["verdict"].startswith("Distillation did not pay: ")
    assert "1.6000" in summary["verdict"]
    assert "1.5000" in summary["verdict"]


@pytest.mark.parametrize("student", [[1.4], [1.6]])
def test_one_seed_is_called_one_seed_and_has_no_spread(student):
    summary = report.summarise(make_results(student=student, twin=[1.5]))
    assert "one seed; --config.seeds=3 would show the spread" in summary["verdict"]
    assert (
        "spread" not in summary["roles"]["student"]["final"]["validation"]["agreement"]
    )
    assert "±" not in report.table(make_results(student=student, twin=[1.5]))


def test_without_a_twin_nothing_is_proven():
    summary = report.summarise(make_results(student=[1.2, 1.3]))
    assert summary["outcome"] == "no_baseline"
    assert summary["verdict"].startswith("Nothing is proven")
    assert summary["gap_closed"] is None


def test_seeds_are_compared_in_pairs():
    # The seeds differ far more than student and twin do within each of them.
    results = make_results(student=[2.0, 3.0, 2.5], twin=[2.1, 3.11, 2.59])
    summary = report.summarise(results)
    assert summary["outcome"] == "won"
    assert summary["difference"]["mean"] == pytest.approx(0.1)
    assert summary["difference"]["standard_error"] == pytest.approx(0.01 / 3**0.5)
    assert (
        "0.1000 bits/byte in favour of the student, beyond the spread"
        in (summary["verdict"])
    )


def test_a_consistent_loss_over_seeds_is_lost():
    results = make_results(student=[2.1, 3.11, 2.59], twin=[2.0, 3.0, 2.5])
    summary = report.summarise(results)
    assert summary["outcome"] == "lost"
    assert "0.1000 bits/byte in favour of the twin" in summary["verdict"]
    assert "closes" not in summary["verdict"]


def test_a_difference_below_two_standard_errors_is_unclear():
    # Differences 0.3, -0.1 and 0.1: mean 0.1, standard error 0.2 / sqrt(3) = 0.115.
    results = make_results(student=[2.0, 2.0, 2.0], twin=[2.3, 1.9, 2.1])
    summary = report.summarise(results)
    assert summary["outcome"] == "unclear"
    assert "within the spread (two standard errors: 0.2309)" in summary["verdict"]
    assert "closes" not in summary["verdict"]


def test_gap_closed_is_a_mean_over_seeds_of_shares():
    # 0.5 / 1.0 and 0.1 / 0.4; the share of the mean scores would be 0.43.
    summary = report.summarise(make_results(student=[1.5, 1.3], twin=[2.0, 1.4]))
    gap_closed = summary["gap_closed"]
    assert gap_closed["mean"] == pytest.approx(0.375)
    assert gap_closed["spread"] == pytest.approx(0.25 / 2**0.5)


def test_seeds_without_a_gap_are_left_out_and_the_verdict_says_so():
    summary = report.summarise(make_results(student=[1.5, 0.4], twin=[2.0, 0.9]))
    assert summary["outcome"] == "won"
    assert summary["gap_closed"] == {"mean": pytest.approx(0.5), "seeds": 1}
    assert "only 1 of 2 seeds" in summary["verdict"]

    summary = report.summarise(make_results(student=[0.7], twin=[0.9]))
    assert summary["gap_closed"] is None
    assert "no gap to close" in summary["verdict"]


def test_best_comes_from_the_curve_and_final_from_the_evaluation():
    results = make_results(student=[1.2], twin=[1.3])
    results["runs"][1]["curve"][1]["bits_per_byte"] = 1.1234
    lines = report.table(results).splitlines()
    (best,) = (line for line in lines if line.startswith("best bits/byte"))
    (step,) = (line for line in lines if line.startswith("best at"))
    assert best.split()[-3:] == ["1.0100", "1.1234", "1.3100"]
    assert step.split()[-3:] == ["100", "50", "100"]


def test_a_loaded_teacher_has_no_course_to_show():
    results = make_results(student=[1.2], twin=[1.3])
    results["runs"][0].update(curve=[], training=None)
    table = report.table(results)
    for label in ("best bits/byte", "training tokens/s", "training steps skipped"):
        (row,) = (line for line in table.splitlines() if line.startswith(label))
        assert row.split()[-3] == "-"
    assert "MFU" not in table  # known for no model


def test_rounding_leaves_no_negative_zero():
    results = make_results(student=[1.2])
    results["runs"][0]["final"]["validation"]["forward_kl"] = -1e-9
    assert "-0.0" not in report.table(results)


def test_the_untrained_model_does_not_set_the_y_range():
    points = [(0, 8.0), (10, 4.0), (50, 2.5), (100, 2.0)]
    low, high = report._y_range(points, teacher=1.5)
    assert (low, high) == pytest.approx((1.4, 2.6))
    assert report._y_range([], teacher=1.5) == pytest.approx((1.4, 1.6))


def test_calibration_bins_of_the_seeds_are_weighted_by_tokens():
    pooled = report._pool(
        [
            {"confidence": 0.52, "accuracy": 0.4, "count": 30},
            {"confidence": 0.0, "accuracy": 0.0, "count": 0},
            {"confidence": 0.56, "accuracy": 0.8, "count": 10},
            {"confidence": 1.0, "accuracy": 0.9, "count": 5},
        ]
    )
    assert pooled == [
        (pytest.approx(0.53), pytest.approx(0.5), 40),
        (pytest.approx(1.0), pytest.approx(0.9), 5),
    ]


def test_the_page_needs_nothing_else_and_shows_the_console_s_figures(tmp_path):
    results = make_results(student=[1.2, 1.25, 1.22], twin=[1.3, 1.36, 1.31])
    page = report.write(results, epath.Path(tmp_path))
    html = page.read_text()
    sources = re.findall(r"""(?:src|href)=["']?([^"'\s>]*)""", html)
    embedded = [base64.b64decode(source.partition("base64,")[2]) for source in sources]
    plots = [tmp_path / "curves.png", tmp_path / "calibration.png"]
    assert embedded == [plot.read_bytes() for plot in plots]
    assert not re.search(r"https?://|url\(|@import|<script|<link", html)

    text = html.replace("\u00a0", " ")
    cells = re.split(r" {2,}|\n", report.table(results))
    figures = [cell for cell in cells if cell[:1].isdigit()]
    assert len(figures) > 50
    assert [figure for figure in figures if f">{figure}<" not in text] == []
    assert report.summarise(results)["verdict"] in text


def test_writing_again_replaces_every_file_and_leaves_no_other(tmp_path):
    report.write(make_results(student=[1.2], twin=[1.3]), epath.Path(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    report.write(make_results(student=[1.4], twin=[1.5]), epath.Path(tmp_path))
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(after) == [
        "calibration.png",
        "curves.png",
        "report.html",
        "report.json",
    ]
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"curves.png", "report.html", "report.json"}


def test_values_cannot_inject_html(tmp_path):
    hostile = "<script>alert(1)</script>"
    results = make_results(student=[1.2])
    results["workdir"] = results["teacher"]["path"] = hostile
    results["data"]["source"] = results["environment"]["device"] = hostile
    results["config"]["data"]["pattern"] = hostile
    html = report.write(results, epath.Path(tmp_path)).read_text()
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_schedule_is_shown_with_both_ends(tmp_path):
    results = make_results(student=[1.2])
    schedule = {"kind": "linear", "start": 1.0, "end": 0.25}
    results["config"]["distill"]["alpha"] = schedule
    html = report.write(results, epath.Path(tmp_path)).read_text()
    assert "1 to 0.25 (linear)" in html


def run_command(workdir):
    return subprocess.run(
        [sys.executable, "-m", "kdjax.report", f"--workdir={workdir}"],
        capture_output=True,
        text=True,
    )


def test_the_command_renders_again_from_the_stored_numbers(tmp_path):
    page = report.write(
        make_results(student=[1.2], twin=[1.3]), epath.Path(tmp_path) / "report"
    )
    numbers = tmp_path / "report" / "report.json"
    results = json.loads(numbers.read_text())
    results["runs"][1]["final"]["validation"]["bits_per_byte"] = 1.7654
    numbers.write_text(json.dumps(results))
    page.unlink()
    done = run_command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Distillation did not pay" in page.read_text()
    assert "1.7654" in done.stdout
    assert json.loads(numbers.read_text())["summary"]["outcome"] == "lost"


def test_a_missing_report_is_one_line_and_exit_code_2(tmp_path):
    done = run_command(tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path}/report/report.json" in done.stderr
    assert done.stdout == ""
