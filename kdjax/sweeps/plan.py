"""A sweep's directory: whose it is, which points it has, what became of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from kdjax.config.schema import Config
from kdjax.core.errors import UsageError
from kdjax.core.files import read_json, write_json
from kdjax.core.locks import Lock
from kdjax.experiment.workdir import FAILED, differences
from kdjax.sweeps.bindings import plain
from kdjax.sweeps.commands import PROGRAM, arguments, line
from kdjax.sweeps.points import Point, axes

_INDEX = "sweep.json"


class Sweep(NamedTuple):
    """A sweep, and where it is.

    Attributes:
        directory: Its directory.
        name: The base config, as the command line names it.
        flags: The arguments that make the base config: --config and its overrides.
        base: The base config.
        points: Its points.
        halving: The factor of successive halving; 0: every point is trained in full.
    """

    directory: epath.Path
    name: str
    flags: tuple[str, ...]
    base: Config
    points: tuple[Point, ...]
    halving: int = 0

    @property
    def shared(self) -> epath.Path:
        """Where runs are that several points need."""
        return self.directory / "shared"

    def workdir(self, point: Point) -> epath.Path:
        """Returns a point's directory, that of an ordinary experiment."""
        return self.directory / "points" / point.name

    def log(self, point: Point) -> epath.Path:
        """Returns the file of what a point's runs said."""
        return self.directory / "logs" / f"{point.name}.log"

    def failure(self, point: Point) -> epath.Path:
        """Returns the file that says why a point failed, if it did."""
        return self.workdir(point) / FAILED

    def lock(self, name: str) -> Lock:
        """Returns the lock on a point, or on the whole sweep."""
        return Lock(self.directory / "locks" / f"{name}.lock")

    def arguments(self, point: Point, steps: int = 0) -> list[str]:
        """Returns the arguments of `kdjax.main` that run a point.

        Args:
            point: The point.
            steps: For how many steps its students are trained; 0: all.
        """
        steps = steps or point.config.student.train.steps
        full = point.config.student.train.steps
        cut = {} if steps == full else {"student.train.steps": steps}
        return arguments(
            self.flags,
            {**point.overrides, **cut},
            str(self.workdir(point)),
            str(self.shared),
        )

    def command(self, point: Point) -> list[str]:
        """Returns the command that runs a point."""
        return [*PROGRAM, *self.arguments(point)]


def claim(sweep: Sweep) -> None:
    """Records the sweep in its directory, or checks that the directory is its own.

    Points may be added to a sweep, unless it is one of successive halving.

    Raises:
        UsageError: The directory is another's, holds other points or is not writable.
    """
    directory = sweep.directory
    try:
        names = (
            {path.name for path in directory.iterdir()} if directory.exists() else {}
        )
        if names and _INDEX not in names and set(names) != {"locks"}:
            raise UsageError(
                f"{directory} is not empty and holds no sweep, so it is left "
                "untouched; choose another --workdir"
            )
        with sweep.lock("sweep").held("the list of points"):
            path = directory / _INDEX
            if path.exists():
                _check_own(read_json(path, f"delete {directory}"), sweep, path)
            write_json(path, _index(sweep))
    except OSError as error:
        raise UsageError(
            f"cannot write to {directory} ({error.strerror}); choose another --workdir"
        ) from None


def _index(sweep: Sweep) -> dict[str, Any]:
    """Returns the content of sweep.json."""
    index: dict[str, Any] = {
        "config": sweep.name,
        "base": plain(sweep.base),
        "axes": axes(sweep.points),
        "points": [
            {
                "name": point.name,
                "workdir": f"points/{point.name}",
                "overrides": point.overrides,
                "command": line(sweep.command(point)),
            }
            for point in sweep.points
        ],
    }
    return index | ({"halving": sweep.halving} if sweep.halving else {})


def _check_own(found: Mapping[str, Any], sweep: Sweep, path: epath.Path) -> None:
    """Raises unless the sweep there has this base config and no points but these."""
    advice = "choose another --workdir"
    base, points = found.get("base"), found.get("points")
    try:
        known = {str(point["name"]) for point in points or ()}
    except (TypeError, KeyError):
        known = set()
    if not isinstance(base, dict) or not known:
        raise UsageError(f"{path} is damaged; {advice}, or delete {path.parent}")
    if changed := differences(base, plain(sweep.base)):
        raise UsageError(
            f"{path.parent} is a sweep of a different config: {'; '.join(changed)}; "
            f"{advice}"
        )
    wanted = {point.name for point in sweep.points}
    if gone := sorted(known - wanted):
        raise UsageError(
            f"{path.parent} is a sweep of other points: {len(gone)} of its "
            f"{len(known)}, such as {gone[0]}, {'is' if len(gone) == 1 else 'are'} "
            f"not among these; give its bindings again and any more, or {advice}"
        )
    halving = found.get("halving", 0)
    if halving != sweep.halving:
        raise UsageError(
            f"{path.parent} was begun with --halving={halving}, this is "
            f"--halving={sweep.halving}; {advice}"
        )
    if halving and wanted != known:
        raise UsageError(
            f"{path.parent} is halved, so no point can join it later; {advice}"
        )


def read_failure(path: epath.Path) -> dict[str, Any] | None:
    """Returns what a point's failed.json says, or None if it has not failed."""
    try:
        return read_json(path)
    except UsageError:
        return None


def steps_of(points: Sequence[Point]) -> set[int]:
    """Returns the different numbers of steps that points are trained for."""
    return {point.config.student.train.steps for point in points}
