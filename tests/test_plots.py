"""The plots show the part of the run that matters, and every seed's tokens."""

import dataclasses
import itertools
import math
import warnings

import pytest
from measurements import (
    make_ensemble_results,
    make_held_out,
    make_results,
    with_run,
    with_test_split,
)

from kdjax.report.plots import calibration, canvas, curves, entropy, many_curves
from kdjax.report.plots.axis import Mark, draw_axis
from kdjax.report.plots.heat import Cell, draw_heat
from kdjax.report.plots.lengths import Length, Level, Line, draw_lengths
from kdjax.report.summary import summarise
from kdjax.results.measured import CalibrationBin, CurvePoint


def test_the_untrained_model_does_not_set_the_y_range():
    points = [(0, 8.0), (10, 4.0), (50, 2.5), (100, 2.0)]
    low, high = curves.y_range(points, [1.5])
    assert (low, high) == pytest.approx((1.4, 2.6))
    assert curves.y_range([], [1.5]) == pytest.approx((1.4, 1.6))


def test_calibration_bins_of_the_seeds_are_weighted_by_tokens():
    pooled = calibration._pool(
        [
            CalibrationBin(0.52, 0.4, 30),
            CalibrationBin(0.0, 0.0, 0),
            CalibrationBin(0.56, 0.8, 10),
            CalibrationBin(0.9, 0.8, 5),
            CalibrationBin(1.0, 0.9, 5),
        ]
    )
    assert [dataclasses.astuple(part) for part in pooled] == [
        (pytest.approx(0.53), pytest.approx(0.5), 40),
        (pytest.approx(0.95), pytest.approx(0.85), 10),
    ]


def test_no_two_roles_look_alike_and_the_usual_ones_always_look_the_same():
    usual = ["teacher", "start", "student", "twin"]
    alone = canvas.styles(usual)
    names = [f"student of {number}" for number in range(30)]
    among = canvas.styles([*names, *usual])
    assert {role: among[role] for role in usual} == alone
    assert len({tuple(style.values()) for style in among.values()}) == 34


@pytest.mark.parametrize("draw", [curves._draw_curves, calibration._draw_calibration])
def test_the_legend_names_every_role_inside_the_picture(draw):
    long = "the teacher with a name that no line of any legend would ever be wide for"
    members = {name: [1.3, 1.4] for name in ("wide", "deep", long)}
    results = make_ensemble_results(student=[1.2, 1.3], twin=[1.5] * 2, members=members)
    drawing = draw(results, summarise(results))
    drawing.draw_without_rendering()
    (legend,) = drawing.legends
    words = " ".join(" ".join(text.get_text().split()) for text in legend.texts)
    for name in members:
        assert f"teacher {name}" in words and f"student of {name}" in words
    assert "hard-label twin" in words
    box, (plot,) = legend.get_window_extent(), drawing.axes
    assert box.x0 >= 0 and box.x1 <= drawing.bbox.width and box.y0 >= 0
    assert box.y1 <= plot.get_tightbbox().y0  # it covers nothing
    small = make_results(student=[1.2], twin=[1.5])
    usual = draw(small, summarise(small))
    usual.draw_without_rendering()
    assert plot.bbox.height > 0.9 * usual.axes[0].bbox.height


def test_a_teacher_is_drawn_where_it_ended_and_not_how_it_got_there():
    results = make_ensemble_results(student=[1.2], members={"a": [1.3], "b": [1.4]})
    (plot,) = curves._draw_curves(results, summarise(results)).axes
    names = [line.get_label() for line in plot.lines]
    assert names[:3] == ["student", "student of a", "student of b"]
    assert "teacher a, final: 1.1000" in names[3:]


def test_curves_are_of_the_validation_split_and_calibration_of_the_test_split():
    results = with_test_split(make_results(student=[1.2]), teacher=0.5, student=0.5)
    final = dict(results.runs[1].final)
    final["test"] = dataclasses.replace(final["test"], calibration_error=0.125)
    results = with_run(results, 1, final=final)
    summary = summarise(results)
    (plot,) = curves._draw_curves(results, summary).axes
    assert [text.get_text() for text in plot.texts] == ["teacher, final: 1.0000"]
    assert plot.get_title().startswith("Validation")
    (plot,) = calibration._draw_calibration(results, summary).axes
    labels = [line.get_label() for line in plot.lines]
    assert labels[1:] == ["teacher: error 2.50 %", "student: error 12.50 %"]


def test_steps_are_whole_numbers_on_the_axis():
    results = make_results(student=[1.2], twin=[1.5])
    points = tuple(CurvePoint(step, 2.0, 1.5 - step / 10) for step in range(4))
    results = with_run(results, 1, curve=points)
    results = with_run(results, 2, curve=points)
    drawing = curves._draw_curves(results, summarise(results))
    drawing.draw_without_rendering()
    ticks = drawing.axes[0].get_xticks()
    assert len(ticks) > 2 and (ticks == ticks.round()).all()


def test_buckets_of_entropy_are_pooled_and_named_by_their_own_ends():
    results = make_results(student=[1.2, 1.3], twin=[1.5])
    drawing = entropy._draw_entropy(results, summarise(results))
    upper, lower = drawing.axes
    student, twin = upper.lines
    assert student.get_ydata() == pytest.approx([0.1, 0.5])
    assert student.get_label() == "student" and twin.get_label() == "hard-label twin"
    names = [label.get_text() for label in lower.get_xticklabels()]
    assert names == ["0.5 to 1", "from 8"]
    assert [bar.get_height() for bar in lower.patches] == pytest.approx([75.0, 25.0])


def test_results_of_older_versions_have_no_plot_by_entropy():
    results = make_results(student=[1.2])
    final = {"validation": dataclasses.replace(make_held_out(1.2), by_entropy=())}
    results = with_run(results, 1, final=final)
    assert entropy.entropy(results, summarise(results)) is None


def test_a_run_that_was_evaluated_once_is_seen():
    courses = [
        many_curves.Course("one", [(10, 2.0)]),
        many_curves.Course("two", [(10, 2.5), (20, 2.0)]),
    ]
    twin = many_curves.Course("twin", [(10, 2.25)])
    (plot,) = many_curves.draw_many_curves(courses, twin).axes
    assert [line.get_marker() for line in plot.lines] == ["o", "None", "o"]


@pytest.mark.parametrize(
    ("twins", "lines"),
    [
        ((1.5, 1.5), {"hard-label twin": 1.5}),
        (
            (1.5, 1.75),
            {"hard-label twins, each in its student's colour": 1.5, "": 1.75},
        ),
        ((1.0, 2.0) * 4, {"hard-label twin, mean of all settings": 1.5}),
    ],
)
def test_different_twins_are_drawn_apart_or_called_a_mean(twins, lines):
    """As where the steps are an axis as well."""
    marks = [
        Mark(place, f"steps {steps}", (1.25,), (0.0,), twin, is_best=not place)
        for place in (0, 1)
        for steps, twin in enumerate(twins)
    ]
    plot, *_ = draw_axis("width", [16, 32], ["16", "32"], ["bits"], marks).axes
    dashed = [line for line in plot.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [*lines.values()]
    assert [line.get_label().lstrip("_") for line in dashed] == [*lines]


@pytest.mark.parametrize("is_difference", [False, True])
@pytest.mark.parametrize("others", [(), (0.5, -0.25)])
def test_diverged_models_spoil_no_heat_map(others, is_difference):
    values = (math.nan, math.inf, *others)
    cells = {(i % 2, i // 2): Cell(v, f"{v:.2f}") for i, v in enumerate(values)}
    labels = (("1", "2"), ("1", "2"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing = draw_heat(("x", "y"), labels, cells, "", is_difference=is_difference)
        drawing.draw_without_rendering()
    written = {text.get_text(): text.get_color() for text in drawing.axes[0].texts}
    assert [*written] == [cell.text for cell in cells.values()]
    assert written["nan"] == written["inf"] == "black"  # on no colour at all


@pytest.mark.parametrize("teacher", [9.0, 25.0, 40_000.0])
def test_seconds_of_training_are_legible_however_far_apart(teacher):
    points = [Length(500 * n, 0.02 * n, 2 - n / 100, 0.01) for n in (1, 4, 16)]
    drawing = draw_lengths([Line("student", points)], Level(1.5, teacher), "device")
    drawing.draw_without_rendering()
    plot = drawing.axes[1]
    low, high = plot.get_xlim()
    labels = plot.get_xticklabels()
    labels = [label for label in labels if low <= label.get_position()[0] <= high]
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) >= 3
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert "0.1" in [label.get_text() for label in labels]
    (legend,) = drawing.legends
    assert legend.texts[0].get_text() == "student"
