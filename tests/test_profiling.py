"""A trace holds the steps that were asked for, and no others."""

import gzip
import json

import pytest
from toy_training import EVERY_TWO, make_program, make_run

from kdjax.config.profiling import read_profile
from kdjax.core.errors import UsageError
from kdjax.train.loop import train
from kdjax.train.profiling import PROFILE


def steps_in(directory):
    """Returns the steps that a run's only trace shows; it has what xprof reads too."""
    (trace,) = directory.rglob("*.trace.json.gz")
    assert list(trace.parent.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    return sorted(
        int(event["args"]["step_num"])
        for event in events
        if event.get("name") == "step" and "step_num" in event.get("args", {})
    )


@pytest.mark.parametrize(
    ("profile", "expected"), [("2:3", [2, 3]), ("4:9", [4])], ids=str
)
def test_the_steps_of_the_range_are_traced_and_the_log_says_how_to_see_them(
    tmp_path, capsys, profile, expected
):
    program = make_program()
    run = make_run(program, tmp_path)
    train(program, run, EVERY_TWO, 1, profile=profile)
    assert steps_in(tmp_path) == expected
    said = capsys.readouterr().err
    assert f"steps {expected[0]} to {expected[-1]} are traced in" in said
    assert f"xprof --logdir={run.directory}/{PROFILE} " in said
    assert "ui.perfetto.dev" in said


def test_a_trace_changes_nothing_and_a_run_without_one_leaves_none(tmp_path):
    program, found = make_program(), []
    for name, profile in (("traced", "1:4"), ("not", "")):
        (tmp_path / name).mkdir()
        run = make_run(program, tmp_path / name)
        found.append(train(program, run, EVERY_TWO, 1, profile=profile).params["w"])
    assert (found[0] == found[1]).all()
    assert steps_in(tmp_path / "traced") == [1, 2, 3, 4]
    assert not list((tmp_path / "not").rglob(PROFILE))


@pytest.mark.parametrize("profile", ["10", "0:3", "5:4", "a:b", "1:2:3", "-1:4", ":"])
def test_what_is_no_range_is_refused_in_a_line(profile):
    with pytest.raises(UsageError, match="FIRST:LAST") as error:
        read_profile(profile)
    assert repr(profile) in str(error.value)
