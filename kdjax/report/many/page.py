"""The report card on disk: JSON, CSV, plots, and one HTML page."""

import base64
import dataclasses
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from kdjax.core.errors import UsageError
from kdjax.core.files import write_bytes, write_json
from kdjax.report.close_up import continuations, readings
from kdjax.report.many.comparison import Comparison, compare
from kdjax.report.many.drawing import plots
from kdjax.report.many.overrides import SEED
from kdjax.report.many.points import is_sweep, read_points
from kdjax.report.many.table import about, csv_text, rows
from kdjax.report.many.verdict import cost_words, verdict
from kdjax.report.plots.calibration import calibration
from kdjax.report.plots.canvas import styles
from kdjax.report.plots.entropy import entropy
from kdjax.report.rendering import render
from kdjax.results.data import TEST
from kdjax.results.measured import teacher_role

_DIRECTORY = "card"


def write_card(
    directories: Sequence[epath.PathLike], output: epath.PathLike | None = None
) -> epath.Path:
    """Writes card.json, points.csv, the plots as PNG files, and index.html.

    Earlier files are replaced, each atomically.

    Args:
        directories: Workdirs of experiments, and directories of sweeps.
        output: Where to write; None: `card` in the directory of a single sweep.

    Returns:
        The path of index.html.

    Raises:
        UsageError: A directory is neither, or the output is needed and not given.
    """
    paths = [epath.Path(directory).expanduser() for directory in directories]
    if output is None and not (len(paths) == 1 and is_sweep(paths[0])):
        raise UsageError(
            "a card of several directories belongs to none of them; say with --output "
            "where to write it, such as --output=runs/card"
        )
    place = epath.Path(output).expanduser() if output else paths[0] / _DIRECTORY
    comparison = compare(read_points(paths))
    words = verdict(comparison)
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / "card.json", _as_json(comparison, words), sealed=False)
    write_bytes(place / "points.csv", csv_text(comparison).encode())
    images = []
    for name, description, png in _all_plots(comparison):
        write_bytes(place / f"{name}.png", png)
        images.append((name, description, base64.b64encode(png).decode()))
    title = (paths[0] if len(paths) == 1 else place).resolve().name
    page = place / "index.html"
    write_bytes(page, _render(comparison, words, images, title, place).encode())
    return page


def _all_plots(comparison: Comparison) -> list[tuple[str, str, bytes]]:
    found = [*plots(comparison)]
    best = comparison.best
    if best is not None:
        words = "Accuracy against confidence, of the best setting."
        drawn = calibration(best.results, best.summary)
        found.append(("calibration", words, drawn))
        differs = entropy(best.results, best.summary)
        if differs is not None:
            words = "KL by the teacher's entropy, of the best setting."
            found.append(("entropy", words, differs))
    return found


def _as_json(comparison: Comparison, words: Sequence[str]) -> dict[str, Any]:
    """Returns the content of card.json."""
    best = comparison.best
    return {
        "created": _now(),
        "verdict": [*words],
        "cost": cost_words(comparison),
        "best": best.name if best else None,
        "axes": comparison.axes,
        "rivals": [dataclasses.asdict(rival) for rival in comparison.rivals],
        "confidence": comparison.confidence,
        "settings": [
            {
                "name": setting.name,
                "overrides": setting.overrides,
                "points": setting.points,
                "rank": comparison.ranked.index(setting) + 1
                if setting in comparison.ranked
                else None,
                "summary": dataclasses.asdict(setting.summary),
            }
            for setting in comparison.settings
        ],
        "points": [
            {
                "name": point.name,
                "workdir": str(point.directory),
                "state": point.state,
                "note": point.note,
                "overrides": point.overrides,
                "command": point.command,
            }
            for point in comparison.points
        ],
    }


def _render(
    comparison: Comparison,
    words: Sequence[str],
    images: Sequence[tuple[str, str, str]],
    title: str,
    place: epath.Path,
) -> str:
    best = comparison.best
    looks: Mapping[str, Any] = styles(best.summary.roles) if best else {}
    return render(
        "card.html.j2",
        title=title,
        created=_now(),
        words=words,
        cost=cost_words(comparison),
        outcome=best.summary.outcome if best else "no_baseline",
        best=best,
        best_points=[p for p in comparison.points if best and p.name in best.points],
        rows=rows(comparison),
        measured=about(),
        links={
            point.name: _link(point.directory, place) for point in comparison.points
        },
        is_seeded=any(SEED in point.overrides for point in comparison.points),
        teachers=_teachers(comparison),
        test_texts=len(_test_texts(comparison)),
        images=images,
        colors={role: look["color"] for role, look in looks.items()},
        passages=readings(best.results) if best else [],
        continuations=continuations(best.results) if best else [],
        config_json=json.dumps(dataclasses.asdict(best.results.config), indent=2)
        if best
        else "",
    )


def _teachers(comparison: Comparison) -> int:
    """Returns how many different teachers, or ensembles of them, the points have."""
    return len(
        {
            tuple(sorted((teacher_role(name), t.sha256) for name, t in each.items()))
            for each in (setting.results.teachers for setting in comparison.settings)
        }
    )


def _test_texts(comparison: Comparison) -> set[str]:
    """Returns the hashes of the points' test splits."""
    splits = (setting.results.data.splits for setting in comparison.settings)
    return {each[TEST].sha256 for each in splits if TEST in each}


def _link(directory: epath.Path, place: epath.Path) -> str:
    """Returns where a point's own page is, seen from the card; "" if there is none."""
    page = directory / "report" / "report.html"
    return os.path.relpath(page, place) if page.exists() else ""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
