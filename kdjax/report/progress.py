"""A page of an experiment in progress, from what its runs have written so far."""

import base64
import datetime
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from etils import epath

from kdjax.config.parsing import from_mapping
from kdjax.config.schema import Config
from kdjax.core.errors import UsageError
from kdjax.core.files import read_json, write_bytes
from kdjax.report.plots.many_curves import Course, run_curves
from kdjax.report.rendering import render
from kdjax.results.files import read, read_run, read_work
from kdjax.results.measured import EQUAL_COMPUTE

EVERY = 10.0  # seconds between two versions of the page
_PAGE = "progress.html"


class RunProgress(NamedTuple):
    """How far one run has come.

    Attributes:
        name: Its name and directory.
        step: The last step that it recorded.
        steps: How many it will have; None: only the run itself knows yet.
        loss: The training loss; None before it is recorded.
        tokens_per_second: The training speed; None before it is recorded.
        curve: Held-out bits/byte by step.
        age: Seconds since it wrote something.
    """

    name: str
    step: int
    steps: int | None
    loss: float | None
    tokens_per_second: float | None
    curve: list[tuple[int, float]]
    age: float


def follow(
    workdir: epath.Path,
    *,
    every: float = EVERY,
    sleep: Callable[[float], object] = time.sleep,
) -> epath.Path:
    """Rewrites the page of a run in progress until the experiment has its report.

    Args:
        workdir: The experiment's directory.
        every: Seconds between two versions, and after which a browser loads the next.
        sleep: Waits for some seconds.

    Returns:
        The path of the finished report.

    Raises:
        UsageError: The directory holds no experiment.
    """
    while (report := _finished_report(workdir)) is None:
        write_progress(workdir, refresh=every)
        sleep(every)
    write_progress(workdir, refresh=0.0)
    return report


def write_progress(workdir: epath.Path, *, refresh: float) -> epath.Path:
    """Writes `progress.html` in a workdir, and returns its path.

    Args:
        workdir: The experiment's directory.
        refresh: Seconds after which a browser loads the page again; 0: it does not.

    Raises:
        UsageError: The directory holds no experiment.
    """
    runs = [*read_progress(workdir)]
    courses = [Course(run.name, run.curve) for run in runs if run.curve]
    image = base64.b64encode(run_curves(courses)).decode() if courses else ""
    html = render(
        "progress.html.j2",
        name=workdir.name,
        runs=runs,
        image=image,
        refresh=refresh,
        is_finished=_finished_report(workdir) is not None,
        now=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    page = workdir / _PAGE
    write_bytes(page, html.encode())
    return page


def read_progress(workdir: epath.Path) -> Iterator[RunProgress]:
    """Yields the runs of an experiment that have begun, by when they were last written.

    Raises:
        UsageError: The directory holds no experiment.
    """
    config = _config(workdir)
    found = [(file.stat().mtime, file) for file in workdir.glob("*/metrics.jsonl")]
    for written, file in sorted(found):
        records = read_records(file)
        step = max((record["step"] for record in records), default=0)
        yield RunProgress(
            name=file.parent.name,
            step=step,
            steps=_steps(file.parent, config, step),
            loss=_last(records, "train/loss"),
            tokens_per_second=_last(records, "perf/tokens_per_second"),
            curve=[
                (record["step"], record["eval/bits_per_byte"])
                for record in records
                if record.get("eval/bits_per_byte") is not None
            ],
            age=max(0.0, time.time() - written),
        )


def read_records(path: epath.Path) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl; one that is half written is left out."""
    records = []
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and type(record.get("step")) is int:
            records.append({k: v for k, v in record.items() if _is_number(v)})
    return records


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _config(workdir: epath.Path) -> Config:
    path = workdir / "config.json"
    if not path.exists():
        raise UsageError(
            f"{workdir} holds no experiment (no config.json); name the --workdir of "
            "one that has begun"
        )
    config: Config = from_mapping(Config, read_json(path), str(path))
    return config


def _finished_report(workdir: epath.Path) -> epath.Path | None:
    """Returns the report of the present config, not that of fewer steps or seeds."""
    page, config = workdir / "report" / "report.html", _config(workdir)
    if not page.exists():
        return None
    try:
        return page if read(page.with_name("report.json")).config == config else None
    except UsageError:  # damaged: the run will write it again
        return None


def _steps(run: epath.Path, config: Config, step: int) -> int | None:
    """Returns how many steps a run of so many will have; None: no config says."""
    name = run.name
    if name.startswith(EQUAL_COMPUTE.replace(" ", "-")):
        # It depends on the FLOPs of the models.
        if (work := read_work(run.parent)) is not None:
            return round(work * config.student.train.steps)
        result = run / "result.json"  # of an older version
        steps = read_run(result).steps if result.exists() else 0
        return steps if steps >= step else None  # it may be trained on
    if not name.startswith("teacher"):
        return config.student.train.steps
    teachers = config.all_teachers
    found = teachers.get(name.removeprefix("teacher-"), next(iter(teachers.values())))
    return found.train.steps


def _last(records: list[dict[str, Any]], key: str) -> float | None:
    found = (r[key] for r in reversed(records) if r.get(key) is not None)
    return next(found, None)
