"""What an experiment could have measured, for the tests of its report."""

import dataclasses

from kdjax.config import Config, ModelConfig
from kdjax.results.data import DataInfo, SplitInfo, TokenizerInfo
from kdjax.results.measured import (
    CalibrationBin,
    CurvePoint,
    EntropyBucket,
    Environment,
    HeldOut,
    ModelInfo,
    Results,
    Run,
    TeacherInfo,
    Training,
)
from kdjax.results.samples import Continuation, Passage, PassageToken

BINS = (
    CalibrationBin(0.25, 0.2, 30),
    CalibrationBin(0.0, 0.0, 0),
    CalibrationBin(0.85, 0.7, 10),
)
BUCKETS = (
    EntropyBucket(0.5, 1.0, 0.7, forward_kl=0.1, agreement=0.9, count=30),
    EntropyBucket(8.0, None, 8.5, forward_kl=0.5, agreement=0.2, count=10),
)
SIZES = SplitInfo(
    documents=3, bytes=9_000, tokens=4_000, rows=31, sha256="ab" * 32, largest_id=1023
)


def make_held_out(bits_per_byte):
    return HeldOut(
        cross_entropy=1.75 * bits_per_byte,
        bits_per_byte=bits_per_byte,
        forward_kl=0.3,
        reverse_kl=0.4,
        agreement=0.71,
        acceptance=0.66,
        calibration_error=0.025,
        calibration=BINS,
        by_entropy=BUCKETS,
    )


def make_passage(role):
    """Returns a passage of three tokens, the last of which the student misjudges."""
    differs = 0.0 if role == "teacher" else 1.25
    return Passage(
        (
            PassageToken("def"),
            PassageToken(" main", 0.5 * differs, 0.4, {" main": 0.4, " f": 0.125}),
            PassageToken("(\n", differs, 0.75, {"(\n": 0.75, "<b>": 0.0625}),
        )
    )


def make_run(role, seed, bits_per_byte, **changes):
    curve = [(0, 8.0), (50, bits_per_byte + 0.5), (100, bits_per_byte + 0.01)]
    fields = {
        "role": role,
        "seed": seed,
        "model": role if role.startswith("teacher") else "student",
        "final": {
            "validation": make_held_out(bits_per_byte),
            "prose": make_held_out(bits_per_byte + 1),
        },
        "curve": tuple(CurvePoint(step, 1.75 * bits, bits) for step, bits in curve),
        "training": Training(
            41_234.0 + seed, None, skipped_steps=0, flops=2.5e12, cpu_seconds=9.5
        ),
        "teachers": ("teacher",) if role == "student" else (),
    }
    if seed == 0 and role in ("teacher", "student", "twin"):
        fields["passage"] = make_passage(role)
        written = Continuation("def f(", "x): pass", f"{role}(x)")
        fields["continuations"] = (written,)
    return Run(**{**fields, **changes})


def make_results(*, student, twin=(), teacher=1.0):
    runs = [make_run("teacher", 0, teacher)]
    for role, scores in (("student", student), ("twin", twin)):
        runs += [make_run(role, seed, score) for seed, score in enumerate(scores)]
    return Results(
        created="2026-11-22T04:00:00+00:00",
        workdir="runs/gpt_small",
        config=Config(),
        environment=Environment("3.11.7", "0.10.2", "cpu", "cpu", 1, processes=1),
        data=DataInfo(
            source="stdlib",
            length=128,
            python="3.11.7",
            skipped_files=0,
            tokenizer=TokenizerInfo("bpe", vocab_size=1024, sha256="cd" * 32),
            splits={name: SIZES for name in ("train", "validation", "prose")},
        ),
        teachers={"teacher": TeacherInfo("teacher", "ef" * 32, from_config=True)},
        models={
            "teacher": ModelInfo(2_000_000, 3e4, ModelConfig(width=192), 4e6),
            "student": ModelInfo(330_000, 1.2e5, ModelConfig(kv_heads=1), 6e5),
        },
        runs=tuple(runs),
    )


def make_ensemble_results(*, student, members, twin=()):
    """Returns the same with several teachers.

    Args:
        student: Bits/byte by seed of the ensemble's students.
        members: Those of the students of each teacher alone, by its name.
        twin: Those of the twins.
    """
    single = make_results(student=student, twin=twin)
    teacher, *students = single.runs
    single_teacher = single.teachers["teacher"]
    runs = [dataclasses.replace(teacher, curve=(), training=None)]
    runs += [make_run(f"teacher {name}", 0, 1.1) for name in members]
    runs += [
        dataclasses.replace(run, teachers=tuple(members) if run.teachers else ())
        for run in students
    ]
    runs += [
        make_run(f"student of {name}", seed, score, teachers=(name,))
        for name, scores in members.items()
        for seed, score in enumerate(scores)
    ]
    size = ModelInfo(1_000_000, forward_tokens_per_second=6e4)
    return dataclasses.replace(
        single,
        teachers={
            name: dataclasses.replace(single_teacher, path=f"teachers/{name}")
            for name in members
        },
        models={**single.models, **{f"teacher {name}": size for name in members}},
        runs=tuple(runs),
    )


def with_run(results, index, **changes):
    """Returns the results with one run changed."""
    runs = list(results.runs)
    runs[index] = dataclasses.replace(runs[index], **changes)
    return dataclasses.replace(results, runs=tuple(runs))


def with_test_split(results, **more):
    """Returns the results with a test split.

    Args:
        results: Those without it.
        **more: How many more bits/byte each role has there than for validation.
    """

    def tested(run):
        bits = run.final["validation"].bits_per_byte + more.get(run.role, 0.0)
        return dataclasses.replace(run, final=run.final | {"test": make_held_out(bits)})

    sizes = dataclasses.replace(SIZES, rows=17, sha256="77" * 32)
    splits = results.data.splits | {"test": sizes}
    data = dataclasses.replace(results.data, splits=splits)
    runs = tuple(map(tested, results.runs))
    return dataclasses.replace(results, data=data, runs=runs)
