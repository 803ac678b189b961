"""What came out of a sweep's points: their quality and how long they took."""

import math
import statistics

from etils import epath

from kdjax.core.errors import UsageError
from kdjax.core.files import read_json, write_json
from kdjax.results.data import VALIDATION
from kdjax.results.files import read
from kdjax.sweeps.plan import Sweep
from kdjax.sweeps.points import Point
from kdjax.sweeps.words import counted


def score(sweep: Sweep, point: Point, role: str = "student") -> float:
    """Returns a point's bits/byte on the validation split, by which points are chosen.

    It is the mean over its seeds; NaN: unknown.

    Args:
        sweep: The sweep.
        point: A finished point.
        role: Whose.
    """
    try:
        results = read(sweep.workdir(point) / "report" / "report.json")
    except UsageError:
        return math.nan
    values = [
        run.final[VALIDATION].bits_per_byte for run in results.runs if run.role == role
    ]
    return statistics.fmean(values) if values else math.nan


def describe(sweep: Sweep, point: Point) -> str:
    """Returns what a finished point's student and twin reach."""
    found = {role: score(sweep, point, role) for role in ("student", "twin")}
    known = [f"{role} {x:.4f}" for role, x in found.items() if not math.isnan(x)]
    return f"{', '.join(known)} bits/byte"


def summary(sweep: Sweep) -> str:
    """Returns how many points have finished, and the best of them, in a line."""
    found = {point.name: score(sweep, point) for point in sweep.points}
    known = {name: value for name, value in found.items() if not math.isnan(value)}
    have = "has" if len(known) == 1 else "have"
    of = f"{len(known)} of {counted(len(found), 'point')}"
    line = f"{of} {have} finished in {sweep.directory}"
    if not known:
        return line
    best = min(known, key=lambda name: known[name])
    return f"{line}; the best student: {known[best]:.4f} bits/byte, {best}"


def note_time(sweep: Sweep, point: Point, steps: int, seconds: float) -> None:
    """Records how long a point took that was run in one go."""
    write_json(_times(sweep, point), {"seconds": round(seconds, 1), "steps": steps})


def read_time(sweep: Sweep, point: Point) -> float | None:
    """Returns how many seconds a point took in full, or None if that is unknown."""
    try:
        found = read_json(_times(sweep, point))
        is_full = found["steps"] == point.config.student.train.steps
        return float(found["seconds"]) if is_full else None
    except (UsageError, KeyError, TypeError, ValueError):
        return None


def _times(sweep: Sweep, point: Point) -> epath.Path:
    return sweep.log(point).with_suffix(".json")
