"""What is swept: bindings from flags, files and sweep(), and the points they make."""

import json
import math
import pathlib

import pytest
import runs
from runs import ROOT

from kdjax.config import Config, validate
from kdjax.config.packaged import load_config
from kdjax.core.errors import UsageError
from kdjax.sweeps import yielded
from kdjax.sweeps.bindings import from_flags
from kdjax.sweeps.points import axes, make_points

DEBUG = f"--config={ROOT}/configs/gpt_debug.py"
RATE = "student.train.optimizer.learning_rate"


def points(*sets, zips=(), files=(), base=None, **options):
    base = base or validate(load_config("kdjax:gpt_debug"))
    return make_points(base, from_flags(sets, zips, files), **options)


def overrides(*sets, **options):
    return [dict(point.overrides) for point in points(*sets, **options)]


def test_lists_are_combined_and_zipped_ones_paired():
    found = points(
        "distill.temperature=[1, 2]",
        "seed=[0, 1]",
        zips=["student.model.width=[16, 32]", "student.model.heads=[2, 4]"],
    )
    assert len(found) == 8
    assert len({point.name for point in found}) == 8
    for point in found:
        model = point.config.student.model
        assert model.heads * 8 == model.width == point.overrides["student.model.width"]
        assert (
            point.config.distill.temperature == point.overrides["distill.temperature"]
        )
    assert axes(found)["distill.temperature"] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("distill.alpha=1", [1.0]),
        ("distill.alpha=[1, 0.5]", [1.0, 0.5]),
        (f"{RATE}=[1e-4, 3e-3]", [1e-4, 3e-3]),
        ("config.distill.alpha = 0.5", [0.5]),
        ("distill.kind=[jsd, forward_kl]", ["jsd", "forward_kl"]),
        ("distill.kind=jsd", ["jsd"]),
        ("distill.kind='jsd'", ["jsd"]),
        ("baseline=[true, False]", [True, False]),
        ("data.pattern=corpus/**/*.md", ["corpus/**/*.md"]),
        ("data.pattern=[a=b, 'c d']", None),
        ("data.pattern=[/a/b, /c]", None),
        ("data.pattern=['a=b', 'c d']", ["a=b", "c d"]),
        ("student.layer_map=[(0,), (1,)]", [[0], [1]]),
        ("student.layer_map=(1,)", [[1]]),
        ("distill.alpha=[1, 0.5]  # mixed", [1.0, 0.5]),
        (
            "distill.temperature=[{'start': 4, 'end': 1.0}]",
            [{"kind": "linear", "start": 4.0, "end": 1.0}],
        ),
    ],
)
def test_values_are_python_literals_or_words(text, values):
    if values is None:
        with pytest.raises(UsageError, match="put quotes around texts"):
            from_flags([text], [], [])
        return
    (binding,) = from_flags([text], [], [])
    assert list(binding.values) == values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("distill.temprature=[1]", "did you mean temperature?"),
        ("temperature=[1]", "did you mean config.distill.temperature?"),
        ("distill.alpha=[]", "--set distill.alpha: the list is empty"),
        ("distill.alpha=", "no value"),
        ("distill.alpha", "is no binding"),
        ("distill alpha=1", "is no binding"),
        ("distill.alpha==1", "is no binding"),
        ("distill-alpha=1", "is no key"),
        ("distill.alpha=[1, half]", "must be a number, or a schedule"),
        ("distill.alpha=[1, 1.0]", "the value 1.0 is given twice"),
        ("distill.alpha=[1, [2]]", "must be a number, or a schedule"),
        ("distill.alpha=[1, 2", "was never closed"),
        ("distill.alpha=1 + x", "is no value"),
        ("distill.alpha=__import__('os')", "no function '__import__'"),
        ("distill.alpha=loguniform(1, 2)", "did you mean log_uniform?"),
        ("seed=[1.5]", "config.seed must be int; it is 1.5"),
        ("seed=[True]", "config.seed must be int; it is True"),
        ("student.layer_map=[0, 2]", "must be a tuple; it is 0"),
        ("tokenizer.kind=[bpe, byte]", "must be one of"),
        ("mesh.data.x=[1]", "has no keys of its own"),
        (f"{RATE}=log_uniform(0, 1)", "0 < low < high"),
        (f"{RATE}=uniform(2, 1)", "low < high"),
        (f"{RATE}=uniform(1)", "takes two numbers"),
        (f"{RATE}=uniform(low=1, high=2)", "without names"),
        ("seed=int_uniform(0, 1.5)", "takes two integers"),
        ("seed=uniform(0, 2)", "config.seed must be int"),
        ("distill.kind=choice()", "plain values"),
        ("distill.kind=choice([])", "one list of values"),
        ("distill.alpha=choice(half, 1)", "must be a number, or a schedule"),
    ],
)
def test_a_bad_binding_is_one_line_that_names_it(text, words):
    with pytest.raises(UsageError) as raised:
        from_flags([text], [], [])
    assert str(raised.value).startswith("--set")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("sets", "zips", "words"),
    [
        (["seed=1", "seed=2"], [], "seed was bound before (--set seed)"),
        (["seed=1"], ["seed=[1, 2]", "seeds=[1, 2]"], "bound before (--set seed)"),
        (["distill={'kind': jsd}", "distill.alpha=1"], [], "one is a part"),
        ([], ["seed=[1, 2]", "seeds=[1, 2, 3]"], "seed has 2, seeds has 3"),
        ([], ["seed=[1, 2]"], "zip pairs two keys or more"),
        ([], ["seed=int_uniform(1, 2)", "seeds=[1, 2]"], "zip pairs lists"),
    ],
)
def test_contradictory_bindings_are_refused(sets, zips, words):
    with pytest.raises(UsageError) as raised:
        from_flags(sets, zips, [])
    assert words in str(raised.value)


def test_a_file_of_bindings(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "sizes.txt").write_text(
        "zip student.model.width = [16, 32]\r\nzip student.model.heads = [2, 4]\r\n"
    )
    (tmp_path / "all.txt").write_text(
        "\ufeff# what is swept\n\n"
        "distill.temperature = [\n  1,  # sharp\n  4,\n]  # and soft\n"
        "include 'more/sizes.txt'  # width and heads\n"
        "  seed = 3\n"
    )
    found = overrides(files=[str(tmp_path / "all.txt")])
    assert len(found) == 4
    assert all(point["seed"] == 3 for point in found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = 1\n\ndistill.temprature = 2\n", "line 3: config.distill.temprature"),
        ("seed = 1\nseed = 2\n", "line 2: seed was bound before"),
        ("distill.alpha = [1,\n 2\n", "line 1: '[1,\\n 2' is no value"),
        ("seed\n", "line 1: 'seed' is no binding"),
        ("seed = x\n", "line 1: config.seed must be int; it is 'x'"),
        ("include 'none.txt'\n", "none.txt to include"),
        ("seed = 1\ninclude 'self.txt'\n", "which includes it"),
    ],
)
def test_a_mistake_in_a_file_names_file_and_line(tmp_path, text, words):
    path = tmp_path / "self.txt"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        from_flags([], [], [str(path)])
    assert words in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"seed = 1\x00"])
def test_what_is_no_file_of_bindings_is_refused(tmp_path, content):
    path = tmp_path / "bindings.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"bindings\.txt"):
        from_flags([], [], [str(path)])


def test_random_points_are_the_same_each_time_and_more_of_them_begin_alike():
    keys = f"{RATE}=log_uniform(1e-4, 1e-2)", "distill.alpha=choice(0.5, 1)"
    first = overrides(*keys, samples=8, seed=3)
    assert first == overrides(*reversed(keys), samples=8, seed=3)
    assert first == overrides(*keys, samples=12, seed=3)[:8]
    assert first != overrides(*keys, samples=8, seed=4)
    assert {point["distill.alpha"] for point in first} == {0.5, 1.0}
    many = overrides(f"{RATE}=log_uniform(1e-4, 1e-2)", samples=200)
    rates = [math.log10(point[RATE]) for point in many]
    assert all(-4 <= rate <= -2 for rate in rates)
    below = sum(rate < -3 for rate in rates)
    assert 70 < below < 130  # half of the draws in each decade
    assert all(float(f"{10**r:.5e}") == pytest.approx(10**r, rel=1e-12) for r in rates)


def test_random_keys_are_drawn_apart_from_each_other():
    keys = "distill.alpha", "student.train.data_fraction"
    found = overrides(*(f"{key}=uniform(0, 1)" for key in keys), samples=5)
    assert not any(point[keys[0]] == point[keys[1]] for point in found)


def test_lists_multiply_random_points():
    found = overrides("seed=int_uniform(0, 9)", "distill.alpha=[0.5, 1]", samples=3)
    assert len(found) == 6
    assert len({point["seed"] for point in found}) == 3


def test_no_more_random_points_than_there_are():
    with pytest.raises(UsageError, match="only 3 different points"):
        points("seed=int_uniform(0, 2)", samples=4)


@pytest.mark.parametrize(
    ("sets", "options", "words"),
    [
        ([], {}, "nothing is swept"),
        (["seed=int_uniform(0, 2)"], {}, "--samples=20"),
        (["seed=[0, 2]"], {"samples": 2}, "no key is drawn at random"),
        (["distill.alpha=[0.5, 2]"], {}, "config.distill.alpha must be in [0, 1]"),
        (["teachers.wide.seed=[1]"], {}, "this config has no 'wide'; it has none"),
        (["distill.temperature.start=[4]"], {}, "bind it as a whole"),
        (["distill.beta=[0.1, 0.2]"], {}, "forward_kl takes no parameter"),
    ],
)
def test_points_that_cannot_be_are_refused(sets, options, words):
    with pytest.raises(UsageError) as raised:
        points(*sets, **options)
    assert words in str(raised.value)


def test_a_sweep_that_nobody_means_is_refused():
    keys = ("seed", "teacher.seed", "distill.alpha", "distill.temperature")
    numbers = list(range(1, 12))
    values = {"distill.alpha": [n / 12 for n in numbers]}
    with pytest.raises(UsageError, match="that makes 14,641 points"):
        points(*(f"{key}={values.get(key, numbers)}" for key in keys))


def test_names_depend_on_the_point_alone_and_are_directories():
    (first, _) = points("distill.alpha=[0.5, 1]", "distill.temperature=2")
    (again,) = points("distill.temperature=2.0", "distill.alpha=0.5")
    # As it was when it was first written: directories are found by it.
    assert first.name == again.name == "alpha=0.5,temperature=2.0-45c546c3"
    (other,) = points("teacher.train.steps=[1]", "student.train.steps=[2]")
    assert other.name.startswith("student.train.steps=2,teacher.train.steps=1-")
    long = points("data.pattern=['a/../*" + "x" * 200 + "']", "data.source=files")
    assert len(long[0].name) <= 90
    assert pathlib.Path(long[0].name).name == long[0].name


def test_overrides_are_checked_against_the_base_config_as_a_whole():
    base = validate(load_config("kdjax:ensemble"))
    name = next(iter(base.teachers))
    found = points(f"teachers.{name}.seed=[5, 6]", base=base)
    assert [point.config.teachers[name].seed for point in found] == [5, 6]
    assert isinstance(found[0].config, Config)


def sweep(*arguments, check=False):
    return runs.run("-m", "kdjax.sweep", *arguments, check=check, timeout=120)


def test_a_config_file_may_have_a_sweep_for_some_arguments_alone(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "def sweep(argument=''):\n    return [{'seed': 1}] if argument else None"
    )
    assert yielded.load(f"{path}:long", []) == [{"seed": 1}]
    assert yielded.load(str(path), []) is None


FILE = """\
import kdjax

def get_config(argument=""):
    return kdjax.load_config("kdjax:gpt_debug")

def sweep(argument=""):
    for t in (1, 2):
        yield {{"distill.temperature": t, "seed": {seed}}}
"""


def test_sweep_of_a_config_file_yields_points(home):
    (home / "mine.py").write_text(FILE.format(seed="t"))
    said = sweep(
        "--config=mine.py:x", "--set=distill.alpha=[0.5, 1]", "--commands=plain"
    )
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert len(lines) == 4
    assert all("--config=mine.py:x " in line for line in lines)
    index = json.loads((home / "runs" / "mine-x-sweep" / "sweep.json").read_text())
    assert index["config"] == "mine.py:x"
    assert index["axes"]["distill.temperature"] == [1.0, 2.0]
    assert index["points"][0]["command"] == lines[0]
    assert index["base"]["data"]["length"] == 256


@pytest.mark.parametrize(
    ("seed", "arguments", "words"),
    [
        ("0.5", [], "point 1 of sweep(): config.seed must be int"),
        ("1 / 0", [], "mine.py, line 8"),
        ("0, 'sed': 1", [], "did you mean seed?"),
        ("0, 'distill.temperature': 1", [], "repeats point 1"),
        ("0", ["--set=seed=[1]"], "seed was bound before"),
        ("0", ["--set=distill={'kind': 'jsd'}"], "one is a part of the other"),
    ],
)
def test_a_mistake_in_sweep_is_one_line(home, seed, arguments, words):
    (home / "mine.py").write_text(FILE.format(seed=seed))
    said = sweep("--config=mine.py", *arguments)
    assert said.returncode == 2
    assert words in said.stderr
    assert said.stderr.count("\n") == 1
