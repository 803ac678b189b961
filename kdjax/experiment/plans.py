"""How long an experiment's students were meant to be trained, and are now.

Schedules depend on a run's length. When the length is raised, every student of the
experiment, finished or not begun, is trained for the first length under its schedules,
and then on for the next one under those: all of them stay comparable.
"""

from etils import epath

from kdjax.config.parsing import convert
from kdjax.core.errors import UsageError
from kdjax.core.files import read_json, write_json
from kdjax.core.logging import say

_PLANS = "plans.json"
_REMEDY = "restore it, or pass --overwrite to start over"


def read_plans(workdir: epath.Path, steps: int) -> tuple[int, ...]:
    """Returns the planned numbers of steps, ascending; the last one is the present.

    Args:
        workdir: The experiment's directory.
        steps: The present one, which is the only one unless it was ever raised.

    Raises:
        UsageError: The file is damaged.
    """
    path = workdir / _PLANS
    if not path.exists():
        return (steps,)
    content = read_json(path, _REMEDY)
    try:
        plans = convert(content.get("steps"), tuple[int, ...], f"{path}.steps")
    except UsageError as error:
        raise UsageError(f"{error}; {_REMEDY}") from None
    if list(plans) != sorted({*plans}) or min(plans, default=1) < 1:
        raise UsageError(
            f"{path} is damaged: steps = {list(plans)} must ascend; {_REMEDY}"
        )
    # Later ones were never used: whoever raised the steps was stopped at once.
    return (*(plan for plan in plans if plan < steps), steps)


def raise_steps(workdir: epath.Path, before: int, steps: int) -> None:
    """Records that students are to be trained longer than they were meant to be.

    Args:
        workdir: The experiment's directory.
        before: The number of steps until now.
        steps: The new one.
    """
    if steps == before or not _has_begun(workdir):
        return
    plans = (*read_plans(workdir, before), steps)
    write_json(workdir / _PLANS, {"steps": plans})
    say(
        f"config.student.train.steps raised from {before:,}: every student is trained "
        f"for {before:,} steps as planned, then on to {steps:,}"
    )


def _has_begun(workdir: epath.Path) -> bool:
    """Returns whether the training of any student or twin has begun."""
    logs = workdir.glob("*/metrics.jsonl")
    return any(not log.parent.name.startswith("teacher") for log in logs)
