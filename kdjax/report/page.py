"""The report on disk: the results as JSON, the plots, and one HTML page."""

import base64
import dataclasses
import importlib.resources
import json
import pathlib
from collections.abc import Mapping

import jinja2
from etils import epath

from kdjax.core.files import write_bytes, write_json
from kdjax.report.plots import calibration, curves, styles
from kdjax.report.summary import Summary, summarise
from kdjax.report.tables import tables
from kdjax.report.words import (
    cpu_seconds,
    optimizer,
    origin,
    setting,
    steps,
    stored_weights,
)
from kdjax.results.files import to_json
from kdjax.results.measured import Results


def write(results: Results, directory: epath.Path) -> epath.Path:
    """Writes report.json, curves.png, calibration.png and report.html.

    The results are on disk before anything is drawn. Earlier files are replaced, each
    atomically.

    Args:
        results: What the experiment measured.
        directory: Created if it does not exist.

    Returns:
        The path of report.html.
    """
    summary = summarise(results)
    directory.mkdir(parents=True, exist_ok=True)
    page = directory / "report.html"
    page.unlink(missing_ok=True)  # its presence marks a complete report
    values = {**to_json(results), "summary": dataclasses.asdict(summary)}
    write_json(directory / "report.json", values)
    images = {
        "curves": curves(results, summary),
        "calibration": calibration(results, summary),
    }
    for name, png in images.items():
        write_bytes(directory / f"{name}.png", png)
    write_bytes(page, _render(results, summary, images).encode())
    return page


def _render(results: Results, summary: Summary, images: Mapping[str, bytes]) -> str:
    template = importlib.resources.files("kdjax.report") / "report.html.j2"
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["optimizer"] = optimizer
    environment.filters["setting"] = setting
    environment.filters["stored_weights"] = stored_weights
    looks = styles(summary.roles)
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        vars(results),
        summary=summary,
        name=pathlib.PurePath(results.workdir).name,
        tables=tables(results, summary),
        images={name: base64.b64encode(png).decode() for name, png in images.items()},
        colors={role: look["color"] for role, look in looks.items()},
        origin=origin(results),
        steps=steps(results),
        cpu_seconds=cpu_seconds(results),
        config_json=json.dumps(dataclasses.asdict(results.config), indent=2),
    )
