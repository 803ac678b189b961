"""Successive halving: all points a little, the best of them longer."""

import math
from collections.abc import Sequence

from etils import epath

from kdjax.core.errors import UsageError
from kdjax.core.files import read_json, write_json
from kdjax.core.logging import say
from kdjax.experiment.workdir import finished_report
from kdjax.sweeps.plan import Sweep, steps_of
from kdjax.sweeps.points import Point, override
from kdjax.sweeps.scores import score
from kdjax.sweeps.words import counted
from kdjax.sweeps.worker import Task, Worker

_REMEDY = "restore it, or halve in another --workdir"


def rungs(points: int, steps: int, factor: int) -> list[tuple[int, int]]:
    """Returns how many points are trained for how many steps, one rung after another.

    Raises:
        UsageError: The first rung would have no step.

    Example:
        >>> rungs(24, 500, 3)
        [(24, 19), (8, 56), (3, 167), (1, 500)]
    """
    sizes = [points]
    while sizes[-1] > 1:
        sizes.append(math.ceil(sizes[-1] / factor))
    last = len(sizes) - 1
    if factor**last > steps:
        raise UsageError(
            f"--halving={factor} of {points} points needs {factor**last:,} steps or "
            f"more, and config.student.train.steps = {steps:,}; raise one of them"
        )
    return [(n, round(steps / factor ** (last - k))) for k, n in enumerate(sizes)]


def check(sweep: Sweep) -> None:
    """Raises unless the sweep can be halved."""
    if sweep.halving < 2:
        raise UsageError(f"--halving must be 2 or more; it is {sweep.halving}")
    steps = steps_of(sweep.points)
    if len(steps) > 1:
        raise UsageError(
            "--halving chooses config.student.train.steps, so it cannot be swept too"
        )
    rungs(len(sweep.points), steps.pop(), sweep.halving)


def halve(sweep: Sweep, worker: Worker) -> dict[str, str]:
    """Trains all points, then the best of them longer, until one is left.

    What every rung found is kept in `rungs/`, so that all workers keep the same points.

    Returns:
        Why points failed, by their names.
    """
    points, failed = list(sweep.points), dict[str, str]()
    (steps,) = steps_of(points)
    plan = rungs(len(points), steps, sweep.halving)
    for number, (_, length) in enumerate(plan):
        directory = sweep.directory / "rungs" / str(number)
        what = f"{counted(len(points), 'point')}, {counted(length, 'step')}"
        say(f"rung {number + 1} of {len(plan)}: {what}")
        failed |= worker.work([_task(sweep, p, length, directory) for p in points])
        points = [point for point in points if point.name not in failed]
        if number + 1 < len(plan):
            points = _kept(sweep, points, plan[number + 1][0], directory)
    if points:
        say(f"the best: {points[0].name}")
    return failed


def _task(sweep: Sweep, point: Point, steps: int, directory: epath.Path) -> Task:
    """Returns a point's part of a rung, which is finished once its score is noted."""
    config = override(point.config, {"student.train.steps": steps}, point.name)
    path = directory / f"{point.name}.json"

    def is_finished() -> bool:
        if path.exists():
            return True
        if finished_report(sweep.workdir(point), config) is None:
            return False
        directory.mkdir(parents=True, exist_ok=True)
        # JSON has no NaN, and no student that diverged is kept.
        found = score(sweep, point)
        value = found if math.isfinite(found) else None
        write_json(path, {"steps": steps, "bits_per_byte": value})
        return True

    return Task(point, steps, is_finished)


def _kept(
    sweep: Sweep, points: Sequence[Point], count: int, directory: epath.Path
) -> list[Point]:
    """Returns the best points of a rung, as the first worker to ask ranked them."""
    path = directory / "kept.json"
    with sweep.lock("sweep").held("the points kept"):
        if not path.exists():
            scores = {p.name: _noted(directory / f"{p.name}.json") for p in points}
            best = sorted(scores, key=lambda name: (scores[name], name))[:count]
            directory.mkdir(parents=True, exist_ok=True)
            write_json(path, {"kept": best})
    by_name = {point.name: point for point in sweep.points}
    try:
        return [by_name[name] for name in read_json(path, _REMEDY)["kept"]]
    except (KeyError, TypeError):
        raise _damaged(path) from None


def _noted(path: epath.Path) -> float:
    try:
        value = read_json(path, _REMEDY)["bits_per_byte"]
        return math.inf if value is None else float(value)
    except (KeyError, TypeError, ValueError):
        raise _damaged(path) from None


def _damaged(path: epath.Path) -> UsageError:
    return UsageError(f"{path} is damaged; {_REMEDY}")
