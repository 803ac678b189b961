"""The main experiment: a teacher, a student and its twin on the embedded corpus.

    python -m kdjax.main --config=configs/gpt_small.py
    python -m kdjax.main --config=configs/gpt_small.py --config.seeds=3
    python -m kdjax.main --config=configs/gpt_small.py:scarce
    python -m kdjax.sweep --config=configs/gpt_small.py:long --config.seeds=3
    python -m kdjax.sweep --config=configs/gpt_small.py:sizes

Trains a teacher (3 layers x 96) on the sources of Python's standard library, then a
student a quarter of its size (2 x 48) on its soft targets alone (`alpha = 1`,
`temperature = 1`), then the student's hard-label twin. "scarce" shows the student 3% of
the rows, about 18 times over. "long" trains a better teacher and, as a sweep, students
and twins of 500 to 8,000 steps, which takes two hours; the longest has a twin of equal
compute as well. README has the figures. "sizes" is a sweep of students of five sizes,
each of three teachers; docs/guide/size.md shows it.

The models are small for a reason: in ten minutes on two cores a larger teacher learns
so little that its student's own twin, trained longer, overtakes it.
"""

import ml_collections

from kdjax.config import default
from kdjax.core.errors import UsageError

SCARCE = 0.03  # of the training rows
LENGTHS = (500, 1000, 2000, 4000, 8000)  # steps of students and twins
# Of "sizes": layers, width, heads and ffn_width.
TEACHERS = ((2, 64, 4, 176), (3, 96, 4, 256), (4, 128, 4, 344))
STUDENTS = (
    (1, 24, 2, 64),
    (2, 32, 2, 88),
    (2, 48, 3, 128),
    (3, 64, 4, 176),
    (3, 96, 4, 256),
)


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of the main experiment, or of a variant; see above."""
    variants: dict[str, dict[str, int | float]] = {
        "": {},
        "scarce": {"data_fraction": SCARCE},
        "long": {},
        "sizes": {"steps": 1000},
    }
    if argument not in variants:
        raise UsageError(
            "gpt_small.py takes the argument 'scarce', 'long' or 'sizes', "
            f"not {argument!r}"
        )
    config = default()
    config.data.test_fraction = 0.05
    config.teacher.model.update(layers=3, width=96, heads=4, ffn_width=256)
    config.teacher.train.update(steps=4000, batch_size=8)
    config.teacher.train.optimizer.learning_rate = 6e-3
    config.student.model.update(layers=2, width=48, heads=3, ffn_width=128)
    config.student.train.update({"steps": 2000, "batch_size": 8} | variants[argument])
    config.student.train.optimizer.learning_rate = 6e-3
    # Along a run; the report's figures are of more.
    config.evaluate.update(every=250, rows=64, final_rows=256)
    config.checkpoint.every = 500
    if argument == "long":
        config.teacher.train.steps = 16000
        config.student.train.steps = LENGTHS[-1]
        config.evaluate.final_rows = 0  # all
    return config


def sweep(argument: str = "") -> list[dict[str, int | str]] | None:
    """Returns the points of a variant; None for those that are single experiments."""
    points = {"long": _lengths, "sizes": _sizes}.get(argument)
    return points and points()


def _lengths() -> list[dict[str, int | str]]:
    points: list[dict[str, int | str]] = [
        {"student.train.steps": steps} for steps in reversed(LENGTHS)
    ]
    points[0]["baseline"] = "both"
    return points


def _sizes() -> list[dict[str, int | str]]:
    return [
        _shape("teacher", teacher) | _shape("student", student)
        for teacher in TEACHERS
        for student in STUDENTS
    ]


def _shape(model: str, shape: tuple[int, ...]) -> dict[str, int | str]:
    names = ("layers", "width", "heads", "ffn_width")
    return {
        f"{model}.model.{name}": size for name, size in zip(names, shape, strict=True)
    }
