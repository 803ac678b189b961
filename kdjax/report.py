"""The report: the numbers of an experiment become JSON, plots and one HTML page.

The console, the JSON and the page show the same summary, so they cannot disagree; only
`write` and `main` touch the disk. Everything can be rendered again from the results
kept in report.json:

    python -m kdjax.report --workdir=runs/gpt_small
"""

import base64
import importlib.resources
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
from absl import flags
from etils import epath

from kdjax import cli, plots
from kdjax.errors import UsageError
from kdjax.summary import ABSENT, METRICS, ROLES, VALIDATION, cell, summarise
from kdjax.workdir import write_bytes, write_json

_BRIEF = ("bits_per_byte", "forward_kl", "agreement")  # the metrics of further splits


def write(results: dict[str, Any], directory: epath.Path) -> epath.Path:
    """Writes report.json, curves.png, calibration.png and report.html.

    The numbers are on disk before anything is drawn. Earlier files are replaced, each
    in one step.

    Args:
        results: What the experiment measured; a "summary" in it is computed anew.
        directory: Made if it does not exist.

    Returns:
        The path of report.html.
    """
    summary = summarise(results)
    results = {**results, "summary": summary}
    directory.mkdir(parents=True, exist_ok=True)
    page = directory / "report.html"
    page.unlink(missing_ok=True)  # its presence says that the report is whole
    write_json(directory / "report.json", results)
    images = {
        "curves": plots.curves(results, summary),
        "calibration": plots.calibration(results, summary),
    }
    for name, png in images.items():
        write_bytes(directory / f"{name}.png", png)
    write_bytes(page, _render(results, images).encode())
    return page


def table(results: dict[str, Any]) -> str:
    """Returns the report's tables as aligned text, one per held-out split.

    Args:
        results: What the experiment measured.

    Returns:
        Lines without a final newline; an arrow after a label points to better.
    """
    return "\n\n".join(map(_aligned, _tables(results, summarise(results))))


def model_card(results: dict[str, Any], run: str) -> str:
    """Returns the card of one of the models: what it is, how it was made, how good.

    Args:
        results: What the experiment measured.
        run: The model's run, such as "student-0" or "twin-1".
    """
    config, models, data = results["config"], results["models"], results["data"]
    loss, training = config["distill"], config["student"]["train"]
    is_student = run.startswith("student")
    how = "hard labels alone, as the student's twin"
    if is_student:
        how = (
            f"{loss['kind']}, alpha {_setting(loss['alpha'])}, temperature "
            f"{_setting(loss['temperature'])}"
        )
    teacher = results["teacher"]
    source = ", ".join(filter(None, (_stored_weights(teacher), teacher["path"])))
    environment = results["environment"]
    rows = (
        ("parameters", f"{models['student']['parameters']:,}"),
        ("began as", _origin(results)),
        ("loss", how),
        ("teacher", f"{models['teacher']['parameters']:,} parameters, {source}"),
        ("teacher's sha256", teacher["sha256"]),
        ("data", f"{data['source']}, in rows of {data['length']} tokens"),
        ("data's sha256", data["splits"]["train"]["sha256"]),
        ("training", f"{training['steps']} steps of {training['batch_size']} rows"),
        ("made with", f"jax {environment['jax']} on {environment['device']}"),
        ("made at", results["created"]),
    )
    lines = (f"- {name}: {value}" for name, value in rows if value)
    return "\n".join(
        (
            "---\nlibrary_name: transformers\ntags: [knowledge-distillation]\n---\n",
            f"# {pathlib.PurePath(results['workdir']).name}: {run}\n",
            *lines,
            "\nMeans over the seeds of the experiment; an arrow points to better.\n",
            f"```\n{table(results)}\n```\n",
            f"{summarise(results)['verdict']}\n",
        )
    )


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *body = rows
    return "\n".join(
        "  ".join((label.ljust(widths[0]), *map(str.rjust, cells, widths[1:])))
        for label, *cells in (header, ["-" * width for width in widths], *body)
    )


def _tables(
    results: dict[str, Any], summary: dict[str, Any]
) -> list[list[tuple[str, ...]]]:
    """Returns a table per split, the headline's first; its first row is the header."""
    roles = summary["roles"]
    splits = dict.fromkeys(split for role in roles.values() for split in role["final"])
    del splits[VALIDATION]
    headline = {role: _headline(role, results, summary) for role in roles}
    tables = [_table(VALIDATION, headline)]
    for split in splits:
        columns = {role: _scores(found, split, _BRIEF) for role, found in roles.items()}
        tables.append(_table(split, columns))
    return tables


def _table(split: str, columns: dict[str, dict[str, str]]) -> list[tuple[str, ...]]:
    """Returns the columns as rows, without those that no model has a value for."""
    cells = zip(*(column.values() for column in columns.values()), strict=True)
    labels = next(iter(columns.values()))
    rows = zip(labels, cells, strict=True)
    return [
        (f"held out: {split}", *columns),
        *((label, *row) for label, row in rows if {*row} != {ABSENT}),
    ]


def _headline(
    role: str, results: dict[str, Any], summary: dict[str, Any]
) -> dict[str, str]:
    """Returns a role's column of the first table, by label."""
    found = summary["roles"][role]
    model, teacher = results["models"][ROLES[role]], results["models"]["teacher"]
    size, speed = "parameters", "forward_tokens_per_second"
    gap_closed = summary["gap_closed"] if role == "student" else None
    skipped = found["skipped_steps"]
    formats = results["teacher"].get("formats") if role == "teacher" else None
    ends = dict.fromkeys([*found["best_steps"][:1], *found["best_steps"][-1:]])
    return {
        **_scores(found, VALIDATION, METRICS),
        "gap from twin to teacher closed (%) ↑": cell(gap_closed, 1, 100.0),
        "best bits/byte along the run ↓": cell(found["best_bits_per_byte"], 4),
        "best at training step": " to ".join(map(str, ends)) or ABSENT,
        "training tokens/s ↑": cell(found["tokens_per_second"], 0),
        "training MFU (%) ↑": cell(found["mfu"], 1, 100.0),
        "training steps skipped, by seed ↓": ", ".join(map(str, skipped)) or ABSENT,
        "forward tokens/s ↑": f"{model[speed]:,.0f}",
        "speed relative to teacher ↑": f"{model[speed] / teacher[speed]:.2f}x",
        "parameters ↓": f"{model[size]:,}",
        "size relative to teacher ↓": f"{model[size] / teacher[size]:.3f}x",
        "weights as stored": _bits(formats) if formats else ABSENT,
    }


def _origin(results: dict[str, Any]) -> str:
    """Returns where a student that was not new is from, in words; "" for others."""
    return next(
        (run.get("origin", "") for run in results["runs"] if run["role"] == "start"), ""
    )


def _stored_weights(teacher: Mapping[str, Any]) -> str:
    """Returns how a loaded teacher's weights are stored, in words; "" for others."""
    formats = teacher.get("formats")
    return f"{_bits(formats)} weights ({', '.join(formats)})" if formats else ""


def _bits(formats: Sequence[str]) -> str:
    """Returns the width of the format that most weights have: "4-bit" for Q4_1."""
    (width,) = re.findall(r"^\D+(\d+)", formats[0])
    return f"{width}-bit"


def _scores(role: dict[str, Any], split: str, keys: Iterable[str]) -> dict[str, str]:
    final = role["final"].get(split, {})
    shown = {}
    for key in keys:
        metric = METRICS[key]
        shown[metric.label] = cell(final.get(key), metric.decimals, metric.scale)
    return shown


def _render(results: dict[str, Any], images: Mapping[str, bytes]) -> str:
    template = importlib.resources.files("kdjax") / "report.html.j2"
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["setting"] = _setting
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        results,
        name=pathlib.PurePath(results["workdir"]).name,
        tables=_tables(results, results["summary"]),
        images={name: base64.b64encode(png).decode() for name, png in images.items()},
        colors=plots.COLORS,
        origin=_origin(results),
        stored_weights=_stored_weights(results["teacher"]),
        config_json=json.dumps(results["config"], indent=2),
    )


def _setting(value: Any) -> str:
    """Returns a number, or a schedule over the run, in words."""
    if isinstance(value, Mapping):
        return f"{value['start']:g} to {value['end']:g} ({value['kind']})"
    return f"{value:g}"


def main(argv: Sequence[str]) -> None:
    """Renders the report of --workdir again, from the numbers in its report.json."""
    del argv
    directory = epath.Path(flags.FLAGS.workdir) / "report"
    numbers = directory / "report.json"
    if not numbers.exists():
        raise UsageError(
            f"there is no {numbers}; --workdir must be that of a finished experiment"
        )
    results = json.loads(numbers.read_bytes())
    page = write(results, directory)
    print(table(results), summarise(results)["verdict"], page, sep="\n\n")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Where the experiment ran.", required=True)
    cli.run(main)
