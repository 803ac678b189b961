"""Results on disk: `report.json` of an experiment and `result.json` of a run."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from kdjax.config.parsing import at_least, convert, from_mapping
from kdjax.core.errors import UsageError
from kdjax.core.files import SEAL, read_json
from kdjax.results.data import VALIDATION
from kdjax.results.measured import Results, Run, teacher_role

# In a workdir: how many steps the twin of equal compute takes for one of the student's.
WORK = "equal_compute.json"


def to_json(results: Results) -> dict[str, Any]:
    """Returns the results as `json.dumps` can write and `from_json` can read them."""
    return dataclasses.asdict(results)


def from_json(values: Any, path: str) -> Results:
    """Returns the results in a parsed report.json, including those of older versions.

    Args:
        values: The content; what is derived from the rest is ignored.
        path: The path shown in error messages.

    Raises:
        UsageError: The content is something else, or inconsistent.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{path} must hold an object, as a report.json does")
    left_out = ("summary", SEAL)
    values = {key: value for key, value in values.items() if key not in left_out}
    if "teacher" in values and "teachers" not in values:  # older: a single one
        values["teachers"] = {"teacher": values.pop("teacher")}
    if isinstance(values.get("runs"), list):
        values["runs"] = [_with_model(run) for run in values["runs"]]
    results: Results = from_mapping(Results, values, path)
    _check(results, path)
    return results


def read(path: epath.Path) -> Results:
    """Returns the results in a report.json.

    Raises:
        UsageError: The file is missing or damaged.
    """
    return from_json(_load(path), str(path))


def read_run(path: epath.Path) -> Run:
    """Returns the run in a result.json.

    Raises:
        UsageError: The file is missing or damaged; the message says what to do.
    """
    try:
        run: Run = convert(_with_model(_load(path)), Run, str(path))
        if VALIDATION not in run.final:
            raise UsageError(f"{path}.final.{VALIDATION} is missing")
    except UsageError as error:
        raise UsageError(f"{error}; delete it to measure the run again") from None
    return run


def read_work(workdir: epath.Path) -> float | None:
    """Returns what `WORK` says in a workdir; None: it is not there, or damaged."""
    path = workdir / WORK
    try:
        work: float = convert(read_json(path).get("work"), float, str(path))
    except UsageError:
        return None
    return work if math.isfinite(work) else None


def _load(path: epath.Path) -> Any:
    if not path.exists():
        raise UsageError(
            f"there is no {path}; give the workdir of a finished experiment"
        )
    return read_json(path)


def _with_model(run: Any) -> Any:
    """Returns a run with the keys that were implied when there was one teacher."""
    if not isinstance(run, Mapping) or "model" in run:
        return run
    role = run.get("role")
    return {
        **run,
        "model": "teacher" if role == "teacher" else "student",
        "teachers": ["teacher"] if role == "student" else [],
    }


def _check(results: Results, path: str) -> None:
    """Raises unless the results suffice for a report."""
    roles = [run.role for run in results.runs]
    for role in ("teacher", "student"):
        if role not in roles:
            raise UsageError(f"{path}.runs has no {role}")
    for split in ("train", VALIDATION):
        if split not in results.data.splits:
            raise UsageError(f"{path}.data.splits.{split} is missing")
    for name, model in results.models.items():
        where = f"{path}.models.{name}"
        at_least(model.parameters, 1, f"{where}.parameters")
        if not model.forward_tokens_per_second > 0:
            raise UsageError(f"{where}.forward_tokens_per_second must be above 0")
    for name in map(teacher_role, results.teachers):
        if name not in results.models:
            raise UsageError(f"{path}.models.{name} is missing")
    splits = results.runs[0].final.keys() | {VALIDATION, results.headline}
    for index, run in enumerate(results.runs):
        where = f"{path}.runs[{index}]"
        if run.final.keys() != splits:
            raise UsageError(f"{where}.final must have {', '.join(sorted(splits))}")
        if run.model not in results.models:
            raise UsageError(f"{where}.model = {run.model!r} is no entry of models")
        if not results.teachers.keys() >= set(run.teachers):
            raise UsageError(f"{where}.teachers has what is no entry of teachers")
