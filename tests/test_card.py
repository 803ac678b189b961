"""The card of many experiments ranks what can be ranked and says how sure that is."""

import csv
import dataclasses
import io
import json
import math
import re
import shlex
import warnings

import pytest
import runs
from etils import epath
from measurements import make_results, make_run, with_run, with_test_split

from kdjax import report
from kdjax.config import ScheduleConfig
from kdjax.core.errors import UsageError
from kdjax.core.files import write_json
from kdjax.report.many.comparison import compare, total_cost
from kdjax.report.many.drawing import _models, plots
from kdjax.report.many.heat_maps import (
    _beside_twins,
    _cells,
    _certainty,
    _differences,
    _pairs,
)
from kdjax.report.many.lengths import STEPS, by_length
from kdjax.report.many.overrides import axes, differences, flat, shown
from kdjax.report.many.page import _render
from kdjax.report.many.points import Point, read_points
from kdjax.report.many.table import csv_text, rows
from kdjax.report.many.verdict import cost_words, verdict
from kdjax.results.files import to_json
from kdjax.results.measured import EQUAL_COMPUTE, CurvePoint


def make_point(scores, twin=(), name="", results=None, **overrides):
    """Returns a finished point whose students have these bits/byte, by seed."""
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    results = results or make_results(student=scores, twin=twin)
    name = name or ", ".join(f"{key}={value}" for key, value in keys.items())
    directory = epath.Path("sweep") / name
    return Point(name, directory, "finished", "", keys, f"run {name}", results)


def with_config(results, **changes):
    """Returns results of a config with other values of dotted keys."""
    config = results.config
    for key, value in changes.items():
        *path, last = key.split("__")
        nodes = [config]
        for part in path:
            nodes.append(getattr(nodes[-1], part))
        new = dataclasses.replace(nodes[-1], **{last: value})
        for part, node in zip(reversed(path), reversed(nodes[:-1]), strict=True):
            new = dataclasses.replace(node, **{part: new})
        config = new
    return dataclasses.replace(results, config=config)


def words_of(*points):
    return " ".join(verdict(compare(points)))


def test_the_best_is_the_lowest_mean_and_a_clear_lead_is_called_clear():
    points = [
        make_point([1.30, 1.40, 1.35], [1.5, 1.6, 1.55], distill__temperature=1.0),
        make_point([1.20, 1.301, 1.249], [1.5, 1.6, 1.55], distill__temperature=2.0),
    ]
    comparison = compare(points)
    assert comparison.best.name == "temperature 2"
    (rival,) = comparison.rivals
    assert rival.outcome == "won"
    assert rival.lead.mean == pytest.approx(0.1)
    text = words_of(*points)
    assert text.startswith("Best of 2 settings: temperature 2, at 1.2500 bits/byte")
    assert "0.1000 bits/byte worse, paired over 3 seeds: beyond the spread" in text
    assert "All other settings are worse beyond the spread." in text
    assert "Of 2 settings with a twin, 2 beat it, 0 lost to it, 0 undecided." in text


def test_equal_compute_is_told_of_the_best_setting():
    results = make_results(student=[1.2, 1.21], twin=[1.5, 1.52])
    longer = [make_run("equal-compute twin", seed, 1.1) for seed in (0, 1)]
    results = dataclasses.replace(results, runs=(*results.runs, *longer))
    points = [
        make_point([], results=results, distill__alpha=1.0),
        make_point([1.4, 1.41], [1.5, 1.52], distill__alpha=0.5),
    ]
    text = words_of(*points)
    assert " than its twin without the teacher, " in text
    assert "the twin takes 100 steps and reaches 1.1000: at equal compute" in text
    drawn = {(model.role, model.bits_per_byte) for model in _models(compare(points))}
    assert ("equal-compute twin", 1.1) in drawn


def make_tested(scores, twin, student, **overrides):
    """Returns a point whose students have so many more bits/byte on its test split."""
    results = make_results(student=scores, twin=twin)
    longer = [make_run("equal-compute twin", seed, 1.45) for seed in (0, 1)]
    results = dataclasses.replace(results, runs=(*results.runs, *longer))
    more = {"student": student, "equal-compute twin": 0.05}
    results = with_test_split(results, **more)
    return make_point([], results=results, **overrides)


def test_validation_chooses_the_setting_and_the_test_split_judges_it():
    points = [
        make_tested([1.20, 1.21], [1.5, 1.52], 0.4, distill__alpha=0.5),
        make_tested([1.30, 1.32], [1.5, 1.52], 0.0, distill__alpha=1.0),
        make_tested([1.40, 1.43], [1.5, 1.52], 0.0, distill__alpha=0.0),
    ]
    comparison = compare(points)
    assert comparison.best.name == "alpha 0.5"  # the worst of them on the test split
    text = words_of(*points)
    assert text.startswith(
        "Best of 3 settings: alpha 0.5, at 1.2050 bits/byte on the validation split, "
        "which chose it, and 1.6050 on the test split, by which kdjax chooses nothing "
        "(2 seeds). The next, alpha 1, is 0.1050 bits/byte worse on the validation "
        "split, paired over 2 seeds: "
    )
    assert "flatters" not in text
    assert (
        "The best is 0.0950 bits/byte worse on the test split than its twin without "
        "the teacher, "
    ) in text
    assert "the twin takes 100 steps and reaches 1.5000: at equal compute" in text
    assert "Of 3 settings with a twin, 2 beat it, 1 lost to it" in text
    drawn = {model.bits_per_byte for model in _models(comparison)}
    assert {1.205, 1.31} < {round(bits, 6) for bits in drawn}
    first = rows(comparison)[0].cells
    assert first["bits/byte \u2193"].value == pytest.approx(1.205)
    assert first["test bits/byte \u2193"].value == pytest.approx(1.605)
    assert first["beats twin by \u2191"].value == pytest.approx(-0.095)


def test_points_with_and_without_a_test_split_are_ranked_by_what_they_share():
    tested = with_test_split(make_results(student=[1.3, 1.32], twin=[1.5, 1.52]))
    points = [
        make_point([1.2, 1.21], [1.5, 1.52], x=1),
        make_point([1.4, 1.41], x=2),
        make_point([], results=tested, x=3),
    ]
    assert compare(points).best.name == "x 1"
    text = words_of(*points)
    assert "1.2050 bits/byte on held-out text" in text and "flatters" in text
    assert "split" not in text
    found = [row.cells["test bits/byte \u2193"].value for row in rows(compare(points))]
    assert found == [None, None, pytest.approx(1.31)]


def test_more_comparisons_ask_for_more_evidence():
    # A lead of 0.1 +- 0.02 over three seeds is beyond the spread, but not as one of 20.
    best, near = [1.2, 1.2, 1.2], [1.28, 1.3, 1.32]
    two = [make_point(best, distill__alpha=0.0), make_point(near, distill__alpha=1.0)]
    assert compare(two).rivals[0].outcome == "won"
    others = [
        make_point([2.0, 2.1, 2.2], distill__alpha=number / 20)
        for number in range(1, 20)
    ]
    many = compare([*two, *others])
    assert many.confidence == pytest.approx(1 - 0.05 / 20)
    assert many.rivals[0].outcome == "unclear"
    assert "share the 5% chance of a mistake (Bonferroni)" in " ".join(verdict(many))


def test_single_seeds_prove_no_order():
    points = [make_point([score], distill__alpha=score) for score in (1.2, 1.3, 1.4)]
    assert {rival.outcome for rival in compare(points).rivals} == {"unclear"}
    text = words_of(*points)
    assert "These are single seeds, so the order may be luck" in text
    assert "has no twin" in text


def test_seeds_that_no_two_settings_share_are_not_paired():
    other = make_results(student=[1.3])
    moved = tuple(dataclasses.replace(run, seed=7) for run in other.runs)
    other = dataclasses.replace(other, runs=moved)
    points = [
        make_point([1.2], distill__alpha=1.0),
        make_point([], results=other, distill__alpha=0.5),
    ]
    assert compare(points).rivals[0].lead is None
    assert "shares no seed with it" in words_of(*points)


def test_a_swept_seed_is_a_seed_and_no_axis():
    results = {}
    for seed in range(3):
        found = make_results(student=[1.2 + seed / 100], twin=[1.5 + seed / 100])
        moved = [dataclasses.replace(run, seed=seed) for run in found.runs]
        results[seed] = dataclasses.replace(found, runs=tuple(moved))
    points = [
        make_point([], results=results[seed], seed=seed, distill__alpha=alpha)
        for alpha in (0.5, 1.0)
        for seed in range(3)
    ]
    comparison = compare(points)
    assert list(comparison.axes) == ["distill.alpha"]
    assert len(comparison.settings) == 2
    assert comparison.best.score.seeds == 3
    assert comparison.best.scores("twin") == {0: 1.5, 1: 1.51, 2: 1.52}
    assert [row.cells["first seed"].text for row in rows(comparison)][:2] == ["0", "1"]


def test_points_of_different_held_out_texts_are_not_ranked():
    results = make_results(student=[1.1])
    splits = dict(results.data.splits)
    splits["validation"] = dataclasses.replace(splits["validation"], sha256="99" * 32)
    data = dataclasses.replace(results.data, splits=splits)
    other = dataclasses.replace(results, data=data)
    points = [
        make_point([1.2], data__pattern="a"),
        make_point([], results=other, data__pattern="b"),
    ]
    comparison = compare(points)
    assert comparison.best is None and not comparison.rivals
    assert "measured on 2 different held-out texts" in words_of(*points)


def test_points_measured_on_fewer_rows_are_not_ranked_with_others():
    results = with_config(make_results(student=[1.1]), evaluate__final_rows=5)
    points = [make_point([1.2], x=1), make_point([], results=results, x=2)]
    assert compare(points).best is None
    assert "2 different numbers of held-out rows (config.evaluate" in words_of(*points)


def test_points_that_were_halved_are_not_ranked_with_those_in_full():
    short = with_config(make_results(student=[1.1]), student__train__steps=100)
    points = [
        make_point([1.3], distill__alpha=0.0),
        make_point([1.2], distill__alpha=0.5),
        make_point([], results=short, distill__alpha=1.0),
    ]
    assert compare(points).best.name == "alpha 0.5"
    assert "1 trained for fewer steps, and not ranked" in words_of(*points)
    swept = [
        make_point([1.3], student__train__steps=300),
        make_point([], results=short, student__train__steps=100),
    ]
    assert compare(swept).best.name == "steps 100"


def at_length(steps, student, twin, longer=(), **overrides):
    """Returns a point whose equal-compute twins took twice the twins' FLOPs."""
    config = with_config(
        make_results(student=student, twin=twin), student__train__steps=steps
    )
    flops = {"student": 2e9 * steps, "twin": 1e9 * steps, "teacher": 1e12}
    runs = [
        dataclasses.replace(
            run, training=dataclasses.replace(run.training, flops=flops[run.role])
        )
        for run in config.runs
    ]
    runs += [
        make_run(EQUAL_COMPUTE, seed, score, training=runs[1].training)
        for seed, score in enumerate(longer)
    ]
    results = dataclasses.replace(config, runs=tuple(runs))
    return make_point([], results=results, student__train__steps=steps, **overrides)


def test_lengths_of_training_are_told_apart_by_steps_and_by_compute():
    points = [
        at_length(4000, [1.30, 1.31], [1.40, 1.41], [1.33, 1.34], baseline="both"),
        at_length(500, [1.50, 1.51], [1.80, 1.81], baseline=True),
        at_length(1000, [1.45, 1.46], [1.45, 1.46], baseline=True),
        at_length(2000, [1.41, 1.42], [1.44, 1.43], baseline=True),
    ]
    words = words_of(*points)
    assert (
        "Beside a twin of equal steps the student is better after 500 and 4,000 steps, "
        "not told apart after 1,000 and 2,000 steps." in words
    )
    # 500 steps of the student cost as much as 1,000 of the twin, and so on; those of
    # the last one are there.
    assert (
        "measured, the student is better after 4,000 steps, not told apart after 1,000 "
        "steps, worse after 500 and 2,000 steps." in words
    )
    assert "lengths" in [name for name, _, _ in plots(compare(points))]


def test_another_key_s_values_are_no_lengths_of_training():
    points = [
        at_length(steps, [score], [1.8], distill__alpha=1.0)
        for steps, score in ((500, 1.5), (4000, 1.3), (1000, 1.4))
    ]
    other = at_length(500, [1.49], [1.8], distill__alpha=0.5)
    steps = [s.overrides[STEPS] for s in by_length(compare([*points, other]))]
    assert steps == [500, 1000, 4000]
    assert by_length(compare([points[0], other])) == []
    assert "after 500, 1,000 and 4,000 steps" in words_of(*points)


def test_a_point_that_repeats_another_does_not_count_and_is_named():
    points = [
        make_point([1.2], name="first"),
        make_point([1.3], name="again"),
        make_point([1.1, 1.2], name="more"),
    ]
    (setting,) = compare(points).settings
    assert setting.repeated == ("again",)
    assert setting.scores() == {0: 1.2, 1: 1.2}
    assert "1 that repeat the seeds of another and do not count (again)" in words_of(
        *points
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_diverged_is_no_best_and_breaks_no_page(tmp_path, value):
    lost = make_results(student=[1.1, value], twin=[1.5, 1.6])
    curve = (CurvePoint(50, value, value), CurvePoint(100, value, value))
    lost = with_run(lost, 2, curve=curve)
    good = make_results(student=[1.2, 1.3], twin=[1.5, 1.6])
    write_sweep(tmp_path, [("lost", {"x": 1}, lost), ("good", {"x": 2}, good)])
    first, second = read_points([epath.Path(tmp_path)])
    assert (first.state, second.state) == ("failed", "finished")
    assert "the held-out loss of student-1 is" in first.note
    assert "failed" in report.write_card([tmp_path]).read_text()
    page = report.write(lost, epath.Path(tmp_path) / "one").read_text()
    assert "Whether distillation paid is unclear" in page


def test_long_values_leave_room_for_the_plot():
    long = [make_point([1.2], x="v" * 200), make_point([1.3], x="w" * 200)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = [name for name, _, _ in plots(compare(long))]
    assert names == ["axis-1", "curves", "pareto"]


def test_what_points_share_is_paid_once():
    points = [
        make_point([1.2], [1.5], distill__alpha=0.5),
        make_point([1.3], [1.5], distill__alpha=1.0),
    ]
    cost = total_cost(compare(points).settings)
    # A teacher, a twin, two students; 2.5e12 FLOPs each.
    assert cost.flops == pytest.approx(4 * 2.5e12)
    assert "1e+13 FLOPs" in cost_words(compare(points))


def test_no_finished_point_is_no_error():
    point = Point("a", epath.Path("a"), "unfinished", "begun", {}, "")
    failed = Point("b", epath.Path("b"), "failed", "diverged", {}, "")
    assert verdict(compare([point, failed])) == [
        "Nothing to compare yet: none of 2 points has finished.",
        "Of 2 points: 1 unfinished, 1 failed.",
    ]
    assert csv_text(compare([point, failed])).count("\n") == 3


def test_equal_numbers_are_one_value_and_schedules_are_values():
    linear = {"kind": "linear", "start": 4.0, "end": 1.0}
    every = [{"t": 2}, {"t": 2.0}, {"t": linear}]
    assert axes(every) == {"t": [2.0, linear]}
    assert shown(linear) == "4 to 1 (linear)"
    assert axes([{"flag": True}, {"flag": 1}])["flag"] == [True, 1]


def test_a_key_that_follows_another_is_no_axis():
    sizes = [{"s.width": width, "s.layers": min(width, 2)} for width in (1, 2, 3)]
    every = [{**size, "t.width": width} for size in sizes for width in (8, 9)]
    assert axes(every) == {"s.width": [1, 2, 3], "t.width": [8, 9]}
    # A product, of which one was stopped early; and a search, where no value recurs.
    every = [{"a": a, "b": b} for a in (1, 2) for b in (3, 4)][:3]
    assert [*axes(every)] == ["a", "b"]
    assert [*axes([{"a": 1, "b": 5}, {"a": 2, "b": 6}])] == ["a", "b"]


def test_plain_workdirs_differ_in_the_keys_that_change_results():
    first = make_results(student=[1.2])
    schedule = ScheduleConfig(start=4.0, end=1.0)
    second = with_config(first, distill__temperature=schedule, log_every=99, seeds=3)
    second = with_config(second, baseline="both", evaluate__tasks=("quiz.jsonl",))
    configs = [flat(dataclasses.asdict(each.config)) for each in (first, second)]
    assert differences(configs) == ["distill.temperature"]


def test_a_random_search_is_no_map():
    grid = [make_point([1.0 + a + b], x=a, y=b) for a in (0.1, 0.2) for b in (0.1, 0.2)]
    comparison = compare(grid)
    assert [*_pairs(comparison)] == [("x", "y")]
    assert _cells(comparison, ("x", "y"))[1, 0].score.mean == pytest.approx(1.3)
    searched = [make_point([1.0 + n], x=n / 7, y=-n / 3) for n in range(1, 9)]
    assert [*_pairs(compare(searched))] == []


def test_a_heat_map_tells_which_student_beat_its_own_twin():
    """Twins of one length are the same, whatever the teacher."""
    points = [
        make_point([student], [twin], teacher__train__steps=x, student__train__steps=y)
        for x, student in ((20, 1.375), (200, 1.0))
        for y, twin in ((10, 1.5), (100, 1.25))
    ]
    comparison = compare(points)
    (pair,) = _pairs(comparison)
    assert pair == ("teacher.train.steps", "student.train.steps")
    cells = _cells(comparison, pair)
    written = {at: cell.text for at, cell in _differences(cells).items()}
    assert written == {
        (0, 0): "+0.1250",
        (1, 0): "+0.5000",
        (0, 1): "\u22120.1250",
        (1, 1): "+0.2500",
    }
    assert _beside_twins((["20", "200"], ["10", "100"]), cells) == (
        ["20", "200"],
        ["10\ntwin 1.5000", "100\ntwin 1.2500"],
    )
    assert _certainty(cells) == "\n(one seed each)"
    assert "heat-1-twin" in [name for name, _, _ in plots(comparison)]
    assert "3 beat it, 1 lost to it, 0 undecided (one seed each)" in words_of(*points)
    # Several seeds whose spread is larger than the difference decide nothing.
    scores = [1.0, 1.25, 1.5], [1.25, 1.25, 1.375]
    unclear = compare([make_point(*scores, x=x, y=y) for x in (1, 2) for y in (1, 2)])
    cells = _cells(unclear, ("x", "y"))
    assert {cell.text for cell in _differences(cells).values()} == {"(+0.0417)"}
    assert "in brackets" in _certainty(cells)
    # Twins that depend on both axes stand beside neither.
    both = [
        make_point([1.0], [1.0 + x + 2 * y], x=x, y=y) for x in (0, 1) for y in (0, 1)
    ]
    labels = (["0", "1"], ["0", "1"])
    assert _beside_twins(labels, _cells(compare(both), ("x", "y"))) == labels


def write_sweep(place, points):
    """Writes a sweep whose points have overrides and, if finished, results."""
    listed = []
    for name, overrides, results in points:
        workdir = place / "points" / name
        listed.append(
            {
                "name": name,
                "workdir": f"points/{name}",
                "overrides": overrides,
                "command": f"python -m kdjax.main --workdir={workdir}",
            }
        )
        if results is not None:
            write_report(workdir, results)
    (place / "sweep.json").write_text(json.dumps({"points": listed, "axes": {}}))


def write_report(workdir, results):
    path = epath.Path(workdir) / "report"
    path.mkdir(parents=True)
    write_json(path / "report.json", to_json(results))


@pytest.fixture
def sweep(tmp_path):
    """Returns the directory of a sweep with points in every state."""
    best = make_results(student=[1.2], twin=[1.5])
    write_sweep(
        tmp_path,
        [
            ("a", {"distill.alpha": 0.5}, make_results(student=[1.3], twin=[1.5])),
            ("b", {"distill.alpha": 1.0}, with_test_split(best, student=0.5)),
            ("failed", {"distill.alpha": 2.0}, None),
            ("damaged", {"distill.alpha": 3.0}, None),
            ("running", {"distill.alpha": 4.0}, None),
            ("absent", {"distill.alpha": 5.0}, None),
        ],
    )
    points = tmp_path / "points"
    for name in ("failed", "damaged/report", "running/twin-0"):
        (points / name).mkdir(parents=True)
    (points / "failed" / "failed.json").write_text('{"reason": "it <b>diverged"}')
    (points / "damaged" / "report" / "report.json").write_text('{"runs": ')
    text = '{"step": 10}\n{"step": 20}\n{"st'
    (points / "running" / "twin-0" / "metrics.jsonl").write_text(text)
    return tmp_path


def test_the_state_of_every_point_is_told(sweep):
    found = {point.name: point for point in read_points([epath.Path(sweep)])}
    assert [point.state for point in found.values()] == [
        *("finished", "finished", "failed", "damaged", "unfinished", "unfinished")
    ]
    assert found["failed"].note == "it <b>diverged"
    assert "report.json cannot be read" in found["damaged"].note
    assert found["running"].note == "twin-0 at step 20"
    assert found["absent"].note == "not begun"


def test_the_card_needs_no_other_file_and_holds_every_point(sweep):
    page = report.write_card([sweep])
    assert page == epath.Path(sweep) / "card" / "index.html"
    source = page.read_text()
    assert not re.search(r"https?://|url\(|@import|<script src|<link", source)
    links = re.findall(r"""(?:src|href)=["']?([^"'\s>]*)""", source)
    local = {link for link in links if not link.startswith("data:")}
    assert local == {"#after-passage", "points.csv", "card.json"}
    embedded = sum(link.startswith("data:image/png") for link in links)
    assert embedded == len([*(sweep / "card").glob("*.png")]) >= 5
    assert "<b>diverged" not in source and "&lt;b&gt;diverged" in source
    shown = re.findall(r"<pre>(<span.*?)</pre>", source)
    shown = [re.sub(r"<[^>]*>", "", command) for command in shown]
    points = json.loads((sweep / "sweep.json").read_text())["points"]
    commands = [point["command"] for point in points]
    assert shown == [*commands, commands[1]]  # the best's once more
    (best,) = re.findall(r'<tr class="finished best".*?</tr>', source, re.S)
    assert "1.2000" in best and ">b<" in re.sub(r"\s", "", best)
    assert "1.7000" in best
    notes = " ".join(source.split())
    assert "of the validation split, by which settings are ranked" in notes
    assert "different test texts" not in notes
    values = json.loads((sweep / "card" / "card.json").read_text())
    assert values["best"] == "alpha 1"
    assert values["verdict"][0] in source
    assert [setting["rank"] for setting in values["settings"]] == [2, 1]
    table = [*csv.DictReader(io.StringIO((sweep / "card" / "points.csv").read_text()))]
    assert [row["state"] for row in table].count("finished") == 2
    assert float(table[1]["bits_per_byte"]) == 1.2
    assert float(table[1]["distill.alpha"]) == 1.0
    assert table[1]["best"] == "yes" and table[2]["note"] == "it <b>diverged"


def test_a_column_of_a_long_name_is_sorted_and_filtered_by_it(tmp_path):
    """It may be broken where it is shown, and not where the script looks."""
    points = [
        make_point([1.5], teacher__train__steps=x, student__train__steps=y)
        for x in (1, 2)
        for y in (3, 4)
    ]
    page = _render(compare(points), ["words"], [], "title", epath.Path(tmp_path))
    columns = re.findall(r'<th scope="col" data-column="([^"]*)"', page)
    assert columns[:2] == ["teacher.train.steps", "student.train.steps"]
    cells = re.findall(r'<td data-column="([^"]*)"', page)
    assert [*dict.fromkeys(cells)] == [*columns, "command"]


def test_a_point_s_own_page_is_linked_from_wherever_the_card_is(sweep):
    page = sweep / "points" / "a" / "report" / "report.html"
    page.write_text("")
    card = report.write_card([sweep], sweep / "elsewhere" / "deep")
    assert 'href="../../points/a/report/report.html"' in card.read_text()


def test_several_workdirs_make_a_card(tmp_path):
    first = make_results(student=[1.3])
    second = with_config(make_results(student=[1.2]), distill__temperature=4.0)
    for name, results in (("one", first), ("two", second)):
        write_report(tmp_path / name, results)
    workdirs = [epath.Path(tmp_path) / name for name in ("one", "two")]
    comparison = compare(read_points(workdirs))
    assert comparison.axes == {"distill.temperature": [1.0, 4.0]}
    assert comparison.best.name == "temperature 4"
    with pytest.raises(UsageError, match="--output"):
        report.write_card(workdirs)
    alike = [tmp_path / "one", tmp_path / "copy" / "one"]
    write_report(alike[1], first)
    names = [point.name for point in read_points([*map(epath.Path, alike)])]
    assert names == [str(path) for path in alike]


def test_the_command_of_a_plain_workdir_runs_the_very_same_config(tmp_path):
    changed = with_config(
        make_results(student=[1.2]),
        distill__temperature=ScheduleConfig(start=4.0, end=1.0),
        distill__kind="jsd",
        student__layer_map=(0, 1),
        teacher__model__windows=(16, 0),
        student__rules=(("head/kernel$", (None, "tensor")),),
        student__train__optimizer__name="muon",
        student__train__optimizer__nesterov=False,
        teacher__train__optimizer__learning_rate=1e-5,
        data__pattern="it's *.md",
        compile_cache="",
    )
    changed = with_config(changed, student__init="random", data__source="files")
    workdirs = [tmp_path / "a b", tmp_path / "other"]
    write_report(workdirs[0], changed)
    write_report(workdirs[1], make_results(student=[1.2]))
    point, _ = read_points([*map(epath.Path, workdirs)])
    (workdirs[0] / "report" / "report.html").write_text("")
    # The command finds the report of the same config, or else would start to train.
    python, *arguments = shlex.split(point.command)
    assert python == "python"
    done = runs.run(*arguments, timeout=120)
    page = workdirs[0] / "report" / "report.html"
    assert done.stdout == f"finished before; the report: {page}\n"


def test_no_command_line_names_several_teachers(tmp_path):
    single = make_results(student=[1.2])
    config = single.config
    teachers = {"wide": config.teacher, "deep": config.teacher}
    write_report(tmp_path / "a", with_config(single, teachers=teachers))
    write_report(tmp_path / "b", single)
    points = read_points([epath.Path(tmp_path / name) for name in "ab"])
    assert points[0].command == "" and points[1].command
    # The key of a single teacher does nothing beside those of several.
    single, several = points[1].overrides, points[0].overrides
    assert single["teacher.model.width"] == config.teacher.model.width
    assert several["teachers.wide.model.width"] == config.teacher.model.width
    assert not any(key.startswith("teacher.") for key in several)
    names = [setting.name for setting in compare(points).settings]
    assert names == ["teachers wide, deep", "teachers teacher"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "must hold a JSON object"),
        ("{", "cannot be read"),
        ('{"points": []}', "lists no points"),
        ('{"points": [1]}', "points[0] must be an object"),
        ('{"points": [{"name": "a"}]}', "points[0].workdir is missing or damaged"),
    ],
)
def test_a_damaged_sweep_is_one_line(tmp_path, content, words):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UsageError) as caught:
        read_points([epath.Path(tmp_path)])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_makes_a_card_and_refuses_what_is_no_experiment(sweep, tmp_path):
    done = runs.run("-m", "kdjax.report", sweep)
    assert done.stdout.splitlines()[0].startswith("Best of 2 settings: alpha 1, at")
    assert done.stdout.splitlines()[-1] == f"{sweep}/card/index.html"
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    done = runs.run("-m", "kdjax.report", sweep, nothing, "--output=x", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "neither an experiment's workdir" in done.stderr
