"""Whether what the points of a sweep name exists, told before any of them runs."""

from kdjax.core.errors import UsageError
from kdjax.experiment.paths import check_paths
from kdjax.experiment.tasks import read_asked
from kdjax.experiment.workdir import finished_report
from kdjax.sweeps.plan import Sweep


def check_points(sweep: Sweep) -> None:
    """Raises unless the paths, tasks and metrics of all unfinished points exist.

    Raises:
        UsageError: One does not, or is no task or metric; the message names the point.
    """
    known = set()
    for point in sweep.points:
        if finished_report(sweep.workdir(point), point.config) is not None:
            continue
        asked = point.config.evaluate.tasks, point.config.evaluate.metrics
        try:
            check_paths(point.config)
            if asked not in known:
                read_asked(point.config)
        except UsageError as error:
            raise UsageError(f"{point.name}: {error}") from None
        known.add(asked)
