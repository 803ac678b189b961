"""The report: the numbers of an experiment become JSON, plots and one HTML page.

The console, the JSON and the page show the same summary, so they cannot disagree; only
`write` and `main` touch the disk. Everything can be rendered again from the results
kept in report.json:

    python -m kdjax.report --workdir=runs/gpt_small
"""

import base64
import dataclasses
import importlib.resources
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jinja2
from absl import flags
from etils import epath

from kdjax import cli, plots
from kdjax.config import ScheduleConfig
from kdjax.results import VALIDATION, Results, TeacherInfo, read, teacher_role, to_json
from kdjax.summary import ABSENT, METRICS, RoleSummary, Summary, cell, summarise
from kdjax.workdir import write_bytes, write_json

_BRIEF = ("bits_per_byte", "forward_kl", "agreement")  # the metrics of further splits


def write(results: Results, directory: epath.Path) -> epath.Path:
    """Writes report.json, curves.png, calibration.png and report.html.

    The numbers are on disk before anything is drawn. Earlier files are replaced, each
    in one step.

    Args:
        results: What the experiment measured.
        directory: Made if it does not exist.

    Returns:
        The path of report.html.
    """
    summary = summarise(results)
    directory.mkdir(parents=True, exist_ok=True)
    page = directory / "report.html"
    page.unlink(missing_ok=True)  # its presence says that the report is whole
    values = {**to_json(results), "summary": dataclasses.asdict(summary)}
    write_json(directory / "report.json", values)
    images = {
        "curves": plots.curves(results, summary),
        "calibration": plots.calibration(results, summary),
    }
    for name, png in images.items():
        write_bytes(directory / f"{name}.png", png)
    write_bytes(page, _render(results, summary, images).encode())
    return page


def table(results: Results) -> str:
    """Returns the report's tables as aligned text, one per held-out split.

    Args:
        results: What the experiment measured.

    Returns:
        Lines without a final newline; an arrow after a label points to better.
    """
    return "\n\n".join(map(_aligned, _tables(results, summarise(results))))


def model_card(results: Results, run: str) -> str:
    """Returns the card of one of the models: what it is, how it was made, how good.

    Args:
        results: What the experiment measured.
        run: The model's run, such as "student-0" or "twin-1".
    """
    config, data, summary = results.config, results.data, summarise(results)
    training, environment = config.student.train, results.environment
    how = "hard labels alone, as the student's twin"
    if run.startswith("student"):
        how = (
            f"{config.distill.kind}, alpha {_setting(config.distill.alpha)}, "
            f"temperature {_setting(config.distill.temperature)}"
        )
    parameters = results.models[summary.roles["student"].model].parameters
    rows = (
        ("parameters", f"{parameters:,}"),
        ("began as", _origin(results)),
        ("loss", how),
        *_teacher_rows(results, run),
        ("data", f"{data.source}, in rows of {data.length} tokens"),
        ("data's sha256", data.splits["train"].sha256),
        ("training", f"{training.steps} steps of {training.batch_size} rows"),
        ("made with", f"jax {environment.jax} on {environment.device}"),
        ("made at", results.created),
    )
    lines = (f"- {name}: {value}" for name, value in rows if value)
    return "\n".join(
        (
            "---\nlibrary_name: transformers\ntags: [knowledge-distillation]\n---\n",
            f"# {pathlib.PurePath(results.workdir).name}: {run}\n",
            *lines,
            "\nMeans over the seeds of the experiment; an arrow points to better.\n",
            f"```\n{table(results)}\n```\n",
            f"{summary.verdict}\n",
        )
    )


def _teacher_rows(results: Results, run: str) -> Iterator[tuple[str, str]]:
    """Yields what a model card says of the teachers of a run, or of its rivals."""
    taught = {f"{found.role}-{found.seed}": found.teachers for found in results.runs}
    for name in taught.get(run) or results.teachers:
        teacher, title = results.teachers[name], teacher_role(name)
        size = results.models[title].parameters
        source = ", ".join(filter(None, (_stored_weights(teacher), teacher.path)))
        yield title, f"{size:,} parameters, {source}"
        yield f"{title}'s sha256", teacher.sha256


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *body = rows
    return "\n".join(
        "  ".join((label.ljust(widths[0]), *map(str.rjust, cells, widths[1:])))
        for label, *cells in (header, ["-" * width for width in widths], *body)
    )


def _tables(results: Results, summary: Summary) -> list[list[tuple[str, ...]]]:
    """Returns a table per split, the headline's first; its first row is the header."""
    roles = summary.roles
    splits = dict.fromkeys(split for role in roles.values() for split in role.final)
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


def _headline(role: str, results: Results, summary: Summary) -> dict[str, str]:
    """Returns a role's column of the first table, by label."""
    found = summary.roles[role]
    model = results.models[found.model]
    teacher = results.models[summary.roles["teacher"].model]
    speed, usual = model.forward_tokens_per_second, teacher.forward_tokens_per_second
    gap_closed = summary.gap_closed if role == "student" else None
    formats = {
        teacher_role(name): found.formats for name, found in results.teachers.items()
    }
    stored = formats.get(role)
    ends = dict.fromkeys([*found.best_steps[:1], *found.best_steps[-1:]])
    return {
        **_scores(found, VALIDATION, METRICS),
        "gap from twin to teacher closed (%) ↑": cell(gap_closed, 1, 100.0),
        "best bits/byte along the run ↓": cell(found.best_bits_per_byte, 4),
        "best at training step": " to ".join(map(str, ends)) or ABSENT,
        "training tokens/s ↑": cell(found.tokens_per_second, 0),
        "training MFU (%) ↑": cell(found.mfu, 1, 100.0),
        "training steps skipped, by seed ↓": ", ".join(map(str, found.skipped_steps))
        or ABSENT,
        "forward tokens/s ↑": f"{speed:,.0f}",
        "speed relative to teacher ↑": f"{speed / usual:.2f}x",
        "parameters ↓": f"{model.parameters:,}",
        "size relative to teacher ↓": f"{model.parameters / teacher.parameters:.3f}x",
        "weights as stored": _bits(stored) if stored else ABSENT,
    }


def _origin(results: Results) -> str:
    """Returns where a student that was not new is from, in words; "" for others."""
    return next((run.origin for run in results.runs if run.role == "start"), "")


def _stored_weights(teacher: TeacherInfo) -> str:
    """Returns how a loaded teacher's weights are stored, in words; "" for others."""
    if not teacher.formats:
        return ""
    return f"{_bits(teacher.formats)} weights ({', '.join(teacher.formats)})"


def _bits(formats: Sequence[str]) -> str:
    """Returns the width of the format that most weights have: "4-bit" for Q4_1."""
    found = re.match(r"\D+(\d+)", formats[0])
    return f"{found[1]}-bit" if found else formats[0]


def _scores(role: RoleSummary, split: str, keys: Iterable[str]) -> dict[str, str]:
    shown = {}
    for key in keys:
        metric = METRICS[key]
        value = role.final[split][key]
        shown[metric.label] = cell(value, metric.decimals, metric.scale)
    return shown


def _render(results: Results, summary: Summary, images: Mapping[str, bytes]) -> str:
    template = importlib.resources.files("kdjax") / "report.html.j2"
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["setting"] = _setting
    environment.filters["stored_weights"] = _stored_weights
    styles = plots.styles(summary.roles)
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        vars(results),
        summary=summary,
        name=pathlib.PurePath(results.workdir).name,
        tables=_tables(results, summary),
        images={name: base64.b64encode(png).decode() for name, png in images.items()},
        colors={role: style["color"] for role, style in styles.items()},
        origin=_origin(results),
        config_json=json.dumps(dataclasses.asdict(results.config), indent=2),
    )


def _setting(value: float | ScheduleConfig) -> str:
    """Returns a number, or a schedule over the run, in words."""
    if isinstance(value, ScheduleConfig):
        return f"{value.start:g} to {value.end:g} ({value.kind})"
    return f"{value:g}"


def main(argv: Sequence[str]) -> None:
    """Renders the report of --workdir again, from the numbers in its report.json."""
    del argv
    directory = epath.Path(flags.FLAGS.workdir) / "report"
    results = read(directory / "report.json")
    page = write(results, directory)
    print(table(results), summarise(results).verdict, page, sep="\n\n")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Where the experiment ran.", required=True)
    cli.run(main)
