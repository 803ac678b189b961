"""The report on disk: the results as JSON, the plots, and one HTML page."""

import base64
import dataclasses
import json
import pathlib
from collections.abc import Mapping

from etils import epath

from kdjax.core.files import write_bytes, write_json
from kdjax.report.close_up import continuations, readings
from kdjax.report.plots.calibration import calibration
from kdjax.report.plots.canvas import styles
from kdjax.report.plots.curves import curves
from kdjax.report.plots.entropy import entropy
from kdjax.report.rendering import render
from kdjax.report.summary import Summary, summarise
from kdjax.report.tables import tables
from kdjax.report.words import (
    architecture,
    cpu_seconds,
    epochs,
    final_figures,
    origin,
    parameters,
    steps,
)
from kdjax.results.files import to_json
from kdjax.results.measured import Results


def write(results: Results, directory: epath.Path) -> epath.Path:
    """Writes report.json, the plots as PNG files, and report.html.

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
    drawn = {
        "curves": curves(results, summary),
        "entropy": entropy(results, summary),
        "calibration": calibration(results, summary),
    }
    images = {name: png for name, png in drawn.items() if png is not None}
    for name, png in images.items():
        write_bytes(directory / f"{name}.png", png)
    write_bytes(page, _render(results, summary, images).encode())
    return page


def _render(results: Results, summary: Summary, images: Mapping[str, bytes]) -> str:
    looks = styles(summary.roles)
    built = {name: architecture(model) for name, model in results.models.items()}
    return render(
        "report.html.j2",
        **vars(results),
        summary=summary,
        name=pathlib.PurePath(results.workdir).name,
        tables=tables(results, summary),
        images={name: base64.b64encode(png).decode() for name, png in images.items()},
        colors={role: look["color"] for role, look in looks.items()},
        passages=readings(results),
        continuations=continuations(results),
        origin=origin(results),
        steps=steps(results),
        epochs=epochs(results),
        spent=cpu_seconds(results),
        headline=results.headline,
        final_figures=final_figures(results),
        architectures={name: words for name, words in built.items() if words},
        parameters=parameters(results.config.distill),
        config_json=json.dumps(dataclasses.asdict(results.config), indent=2),
    )
