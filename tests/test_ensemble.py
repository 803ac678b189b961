"""Experiments with several teachers, and what an experiment compiles."""

import collections
import dataclasses
import json
import pathlib
import re

import pytest
import runs

from kdjax.config import default, teacher, validate
from kdjax.core.errors import UsageError
from kdjax.experiment.runs import student_roles

SHORT = ("--config.student.train.steps=4", "--config.checkpoint.every=2")
TRAINED = ("wide", "deep")


def experiment(texts, workdir, *overrides, config="ensemble", **variables):
    """Runs a small experiment and returns what it said, and its report."""
    arguments = runs.experiment(texts, workdir, *SHORT, *overrides)
    arguments[2] = f"--config={runs.ROOT}/configs/{config}.py"
    done = runs.run(*arguments, env=runs.environment(**variables))
    return done, runs.read_report(workdir)


def short(*names):
    return [f"--config.teachers.{name}.train.steps=4" for name in names]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a corpus and a cache that the ensemble's runs share."""
    place = tmp_path_factory.mktemp("ensemble")
    runs.write_texts(place)
    return place


def in_place(place, workdir, *overrides, **options):
    cache = f"--config.cache_dir={place}/cache"
    return experiment(f"{place}/*.txt", place / workdir, cache, *overrides, **options)


@pytest.fixture(scope="module")
def ensemble(place):
    """The experiment with an ensemble and its members, and its report."""
    return in_place(place, "run", *short(*TRAINED))


def test_students_of_an_ensemble_and_of_its_members_stand_in_one_report(
    place, ensemble
):
    done, report = ensemble
    assert [run["role"] for run in report["runs"]] == [
        *("teacher", "teacher deep", "teacher wide"),
        *("student", "student of deep", "student of wide", "twin"),
    ]
    final = {run["role"]: run["final"]["validation"] for run in report["runs"]}
    assert final["teacher"]["forward_kl"] == pytest.approx(0, abs=1e-6)
    assert final["teacher"]["agreement"] == 1
    assert 0 < final["teacher wide"]["forward_kl"] < final["teacher deep"]["forward_kl"]
    students = [final[role]["bits_per_byte"] for role in list(final)[3:]]
    assert len(set(students)) == 4  # nobody learnt the same
    parameters = {name: m["parameters"] for name, m in report["models"].items()}
    members = parameters["teacher deep"], parameters["teacher wide"]
    assert parameters["teacher"] == sum(members)
    assert re.search(r"ensemble's student \(.*\) is .* best member", done.stdout)
    assert (place / "run/student-of-deep-0/model/model.json").exists()


def test_a_member_s_student_is_that_of_this_teacher_alone(place, ensemble):
    """Neither weight nor name are part of what a teacher becomes."""
    _, report = ensemble
    known = json.loads((place / "run/config.json").read_text())
    wide = known["teachers"]["wide"]["model"]
    flags = [f"--config.teacher.model.{k}={wide[k]}" for k in ("layers", "width")]
    flags += ["--config.teacher.train.steps=4", "--config.baseline=False"]
    done, alone = in_place(place, "alone", *flags, config="gpt_debug")
    assert "teacher: loaded from" in done.stderr
    sha256 = alone["teachers"]["teacher"]["sha256"]
    assert sha256 == report["teachers"]["wide"]["sha256"]
    (member,) = (run for run in report["runs"] if run["role"] == "student of wide")
    assert alone["runs"][1]["final"]["validation"]["bits_per_byte"] == pytest.approx(
        member["final"]["validation"]["bits_per_byte"], rel=1e-6
    )


def test_seeds_share_what_is_compiled(texts):
    """Two seeds of student and twin, and one teacher: three train steps."""
    overrides = "--config.seeds=2", "--config.teacher.train.steps=2"
    done, _ = experiment(
        texts, "run", *overrides, config="gpt_debug", JAX_LOG_COMPILES="1"
    )
    # Those that the cache has are told as well.
    found = re.findall(r"Finished XLA compilation of jit\((\w+)\)", done.stderr)
    count = collections.Counter(found)
    assert count["train_step"] == 3
    assert count["measure"] == 4  # of each model along the run, and in the end
    assert count["read"] <= 3  # each model's forward pass; the teacher's also as one of
    assert count["scores"] == 2  # an ensemble


@pytest.mark.slow
def test_a_second_run_of_the_same_shapes_compiles_nothing_again(texts, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    overrides = "--config.cache_dir=cache", "--config.teacher.train.steps=2"
    hits = []
    for workdir in ("first", "second"):
        done, _ = experiment(
            texts, workdir, *overrides, config="gpt_debug", JAX_LOG_COMPILES="1"
        )
        hits.append("cache hit for 'jit_train_step'" in done.stderr)
    assert hits == [False, True]
    assert list(pathlib.Path("cache/compiled").glob("*/jit_train_step-*"))


def several(**changes):
    config = default()
    config.teachers = {"wide": teacher(), "deep": teacher()}
    for key, value in changes.items():
        config[key] = value
    return config


def alone(config):
    config.teachers, config.member_students = {"a": teacher()}, True


def test_roles_follow_from_the_teachers():
    config = validate(several(member_students=True))
    roles = [(role.name, role.teachers) for role in student_roles(config, 2.5)]
    assert sorted(roles) == [
        ("student", ("deep", "wide")),
        ("student of deep", ("deep",)),
        ("student of wide", ("wide",)),
        ("twin", ()),
    ]
    single = validate(default())
    names = [role.run(3) for role in student_roles(single, 2.5)]
    assert names == ["student-3", "twin-3"]
    assert student_roles(single, 2.5)[0].teachers == ("teacher",)
    without = dataclasses.replace(single, baseline=False)
    assert [role.name for role in student_roles(without, 2.5)] == ["student"]
    both = dataclasses.replace(single, baseline="both")
    steps = {role.name: role.steps(10) for role in student_roles(both, 2.5)}
    assert steps == {"student": 10, "twin": 10, "equal-compute twin": 25}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.teacher.update(seed=3), "config.teacher would do nothing"),
        (lambda c: c.teachers.wide.update(weight=0.0), "teachers.wide.weight must be"),
        (lambda c: c.teachers.wide.update(dtype="float32"), "teachers.wide.dtype is"),
        (lambda c: c.teachers.wide.train.update(steps=0), "teachers.wide.train.steps"),
        (lambda c: c.teachers.wide.model.update(width=7), "teachers.wide.model.width"),
        (lambda c: c.teachers.update({"a b": teacher()}), "letters, digits and _"),
        (lambda c: c.teachers.wide.unlock().update(wight=1), r"did you mean weight"),
        (alone, "member_students is for several teachers"),
    ],
)
def test_mistakes_are_answered_in_one_line(change, words):
    config = several()
    config.teachers.unlock()
    change(config)
    with pytest.raises(UsageError, match=words) as caught:
        validate(config)
    assert "\n" not in str(caught.value)


def test_a_teacher_that_the_config_does_not_name_cannot_be_changed():
    config = f"--config={runs.ROOT}/configs/ensemble.py"
    flag = "--config.teachers.narrow.seed=1"
    done = runs.run("-m", "kdjax.main", config, flag, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: config.teachers.narrow.seed: this config has "
    )


def test_a_weight_without_another_teacher_is_refused():
    config = default()
    config.teacher.weight = 2.0
    with pytest.raises(UsageError, match="weight is for several teachers"):
        validate(config)
