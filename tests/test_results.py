"""A report.json of any age is read as it was meant, or refused in one line."""

import copy
import json
import pathlib
import random

import pytest
from etils import epath
from measurements import make_ensemble_results, make_results

from kdjax import report
from kdjax.config import Config
from kdjax.core.errors import UsageError
from kdjax.report.summary import summarise
from kdjax.results import files
from kdjax.results.measured import CurvePoint, Training

OLD = pathlib.Path(__file__).parent / "report-v1.json"


def plain(values):
    return json.loads(json.dumps(files.to_json(values)))


@pytest.mark.parametrize(
    "written",
    [
        make_results(student=[1.2, 1.3], twin=[1.3, 1.4]),
        make_ensemble_results(student=[1.2], members={"wide": [1.3], "deep": [1.4]}),
    ],
    ids=["one teacher", "two teachers"],
)
def test_what_is_written_is_read_back_equal(written):
    assert files.from_json(plain(written), "report.json") == written


def test_a_report_from_when_there_was_one_teacher_is_read_with_what_it_implied():
    old = files.read(epath.Path(OLD))
    assert list(old.teachers) == ["teacher"]
    assert [(run.role, run.model, run.teachers) for run in old.runs[:3]] == [
        ("teacher", "teacher", ()),
        ("student", "student", ("teacher",)),
        ("twin", "student", ()),
    ]
    assert old.runs[1].curve[0] == CurvePoint(50, 4.873714, 2.877668)
    assert old.runs[1].training == Training(13081.70412, None, 0)
    assert old.teachers["teacher"].formats == ()
    assert old.config.evaluate.final_rows == Config().evaluate.final_rows
    summary = summarise(old)
    assert summary.outcome == "unclear"  # of two seeds; it was "won" by another rule
    assert "once" not in summary.verdict  # it is made anew
    assert files.from_json(plain(old), "report.json") == old


def test_a_run_finished_by_earlier_code_is_read_as_the_report_s(tmp_path):
    run = json.loads(OLD.read_text())["runs"][1]
    path = epath.Path(tmp_path) / "result.json"
    path.write_text(json.dumps(run))
    assert files.read_run(path) == files.read(epath.Path(OLD)).runs[1]


def leaves(values, path=()):
    """Yields the path of every value in nested dictionaries and lists."""
    yield path
    items = ()
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, list):
        items = enumerate(values)
    for key, value in items:
        yield from leaves(value, (*path, key))


def mutate(values, chance):
    """Changes, removes, adds or moves something somewhere in the values."""
    *parents, last = chance.choice([path for path in leaves(values) if path])
    place = values
    for key in parents:
        place = place[key]
    anything = (None, True, -1, 0, 0.5, 10**9, "", "no", [], {}, [None], {"a": 1})
    action = chance.randrange(4)
    if action == 0:
        del place[last]
    elif action == 1 and isinstance(place, dict):
        place[chance.choice(["no", "role", "", "a.b", last * 2])] = place.pop(last)
    elif action == 2 and isinstance(place, list):
        place.insert(0, copy.deepcopy(chance.choice(anything)))
    else:
        place[last] = copy.deepcopy(chance.choice(anything))


@pytest.mark.parametrize("count", [60, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("source", ["old", "new"])
def test_a_damaged_report_is_rendered_or_refused_in_one_line(source, count):
    chance = random.Random(7)
    ensemble = make_ensemble_results(student=[1.2], twin=[1.5], members={"a": [1.3]})
    whole = json.loads(OLD.read_text()) if source == "old" else plain(ensemble)
    refused = []
    for _ in range(count):
        values = copy.deepcopy(whole)
        mutate(values, chance)
        try:
            found = files.from_json(values, "report.json")
        except UsageError as error:
            refused.append(str(error))
        else:
            report.table(found)
            report.model_card(found, "student-0")
    assert count / 3 < len(refused) < count
    for line in refused:
        assert "\n" not in line and len(line) < 300
        assert line.startswith("report.json")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("runs", 1, "final", "prose", "agreement"), "x", "must be float; it is 'x'"),
        (("runs", 1, "final", "prose"), None, "must be a mapping; it is None"),
        (("runs", 1, "model"), "other", "'other' is no entry of models"),
        (("runs", 1, "teachers"), ["other"], "no entry of teachers"),
        (("runs", 1, "role"), "pupil", "runs has no student"),
        (("runs", 1, "final"), {}, "must have prose, validation"),
        (("models", "student", "parameters"), 0, "must be at least 1"),
        (("models", "student", "forward_tokens_per_second"), 0, "must be above 0"),
        (("models",), {"student": {}}, "models.student.parameters is missing"),
        (("data", "splits"), {}, "data.splits.train is missing"),
        (("config", "sed"), 1, "config.sed does not exist; did you mean seed?"),
    ],
    ids=str,
)
def test_a_contradiction_is_named(path, value, words):
    values = plain(make_results(student=[1.2], twin=[1.3]))
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(UsageError) as caught:
        files.from_json(values, "runs/report.json")
    assert str(caught.value).startswith("runs/report.json.")
    assert words in str(caught.value)


def test_a_test_split_that_was_not_measured_is_named():
    values = plain(make_results(student=[1.2], twin=[1.3]))
    values["data"]["splits"]["test"] = values["data"]["splits"]["prose"]
    with pytest.raises(UsageError, match="final must have prose, test, validation"):
        files.from_json(values, "report.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"null", b'{"a": 1}'])
def test_another_file_is_no_report(tmp_path, content):
    path = epath.Path(tmp_path) / "report.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        files.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
