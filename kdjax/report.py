"""The report: the numbers of an experiment become JSON, plots and one HTML page.

`summarise` and `table` are pure functions of the results, so the console, the JSON and
the page cannot disagree; only `write` and `main` touch the disk. Everything can be
rendered again from the results kept in report.json:

    python -m kdjax.report --workdir=runs/gpt_small
"""

import base64
import collections
import importlib.resources
import io
import itertools
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from absl import flags
from etils import epath
from matplotlib import axes, figure

from kdjax import cli
from kdjax.errors import UsageError

VALIDATION = "validation"  # the split that the verdict is about
ROLES = {"teacher": "teacher", "student": "student", "twin": "student"}  # their models
LABELS = {"teacher": "teacher", "student": "student", "twin": "hard-label twin"}
# Okabe and Ito's blue and vermilion, which every kind of colour vision tells apart.
COLORS = {"teacher": "#444444", "student": "#0072B2", "twin": "#D55E00"}
MARKERS = {"teacher": "D", "student": "o", "twin": "s"}
ABSENT = "-"


class Metric(NamedTuple):
    """A held-out metric, and how the tables show it; the arrow points to better."""

    key: str
    label: str
    decimals: int
    scale: float = 1.0


METRICS = (
    Metric("cross_entropy", "cross-entropy (nats/token) ↓", 4),
    Metric("bits_per_byte", "bits/byte ↓", 4),
    Metric("forward_kl", "KL(teacher||model) (nats/token) ↓", 4),
    Metric("reverse_kl", "KL(model||teacher) (nats/token) ↓", 4),
    Metric("agreement", "top-1 agreement with teacher (%) ↑", 1, 100.0),
    Metric("acceptance", "speculative-decoding acceptance (%) ↑", 1, 100.0),
    Metric("calibration_error", "expected calibration error (%) ↓", 2, 100.0),
)
BRIEF_METRICS = ("bits_per_byte", "forward_kl", "agreement")  # of further splits

Scores = Mapping[int, float]  # bits/byte by seed
Points = Sequence[tuple[int, float]]  # bits/byte by step


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
    results = {**results, "summary": summarise(results)}
    directory.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(results, indent=1) + "\n"
    _replace(directory / "report.json", numbers.encode())
    plots = {"curves": _plot_curves(results), "calibration": _plot_calibration(results)}
    for name, png in plots.items():
        _replace(directory / f"{name}.png", png)
    page = directory / "report.html"
    _replace(page, _render(results, plots).encode())
    return page


def _replace(path: epath.Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


# The summary: from runs to means, spreads and a verdict.


def summarise(results: dict[str, Any]) -> dict[str, Any]:
    """Returns means and spreads over seeds, the gap closed, and a verdict in words.

    A spread is the sample standard deviation; a single seed has none. The student and
    the twin of one seed share initialisation and batches, so they are compared seed by
    seed. "won" and "lost" ask for a mean difference beyond two standard errors; with
    one seed the sign decides, and the verdict says that it was one seed.

    Args:
        results: What the experiment measured.

    Returns:
        The keys roles, difference (twin - student, in bits/byte), gap_closed
        ((twin - student) / (twin - teacher), over the seeds whose twin is worse than
        the teacher), outcome ("won", "lost", "unclear" or "no_baseline") and verdict.
        Without a twin, or without a gap, the entry is None.
    """
    runs: dict[str, list[dict[str, Any]]] = {role: [] for role in ROLES}
    for run in results["runs"]:
        runs[run["role"]].append(run)
    teachers, student, twin = (
        {run["seed"]: run["final"][VALIDATION]["bits_per_byte"] for run in of_role}
        for of_role in runs.values()
    )
    teacher = statistics.fmean(teachers.values())
    difference = _difference(student, twin)
    gap_closed = _gap_closed(student, twin, teacher)
    outcome = _outcome(difference)
    if difference is None:
        verdict = _verdict_without_twin(student)
    else:
        verdict = _verdict(outcome, student, twin, difference)
        verdict += _gap_clause(outcome, teacher, difference, gap_closed)
        verdict += ". " + _spread_sentence(outcome, difference)
    return {
        "roles": {role: _summarise_role(runs[role]) for role in ROLES if runs[role]},
        "difference": difference,
        "gap_closed": gap_closed,
        "outcome": outcome,
        "verdict": verdict,
    }


def _statistic(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Returns mean, spread and count of the values that are known, if any is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    result = {"mean": statistics.fmean(known), "seeds": len(known)}
    if len(known) > 1:
        result["spread"] = statistics.stdev(known)
    return result


def _summarise_role(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    training = [run["training"] for run in runs if run["training"]]
    best = [
        min(run["curve"], key=lambda point: point["bits_per_byte"])
        for run in runs
        if run["curve"]
    ]
    return {
        "final": {
            split: {
                metric: _statistic(run["final"][split][metric] for run in runs)
                for metric, value in metrics.items()
                if not isinstance(value, list)
            }
            for split, metrics in runs[0]["final"].items()
        },
        "best_bits_per_byte": _statistic(point["bits_per_byte"] for point in best),
        "best_steps": sorted(point["step"] for point in best),
        "tokens_per_second": _statistic(run["tokens_per_second"] for run in training),
        "mfu": _statistic(run["mfu"] for run in training),
        "skipped_steps": [run["skipped_steps"] for run in training],
    }


def _difference(student: Scores, twin: Scores) -> dict[str, Any] | None:
    result = _statistic(twin[seed] - student[seed] for seed in student if seed in twin)
    if result and "spread" in result:
        result["standard_error"] = result["spread"] / math.sqrt(result["seeds"])
    return result


def _gap_closed(student: Scores, twin: Scores, teacher: float) -> dict[str, Any] | None:
    return _statistic(
        (twin[seed] - student[seed]) / (twin[seed] - teacher)
        for seed in student
        if seed in twin and twin[seed] > teacher
    )


def _outcome(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return "no_baseline"
    if abs(difference["mean"]) > 2 * difference.get("standard_error", 0.0):
        return "won" if difference["mean"] > 0 else "lost"
    return "unclear"


def _verdict_without_twin(student: Scores) -> str:
    mean = statistics.fmean(student.values())
    return (
        f"Nothing is proven: the student reaches {mean:.4f} bits/byte on held-out "
        "text, but there is no twin, trained without the teacher, to hold that "
        "against; --config.baseline=True trains it."
    )


def _verdict(
    outcome: str, student: Scores, twin: Scores, difference: dict[str, Any]
) -> str:
    opening = {
        "won": "Distillation paid",
        "lost": "Distillation did not pay",
        "unclear": "Whether distillation paid is unclear",
    }[outcome]
    return (
        f"{opening}: the student reaches {statistics.fmean(student.values()):.4f} "
        "bits/byte on held-out text, its twin without the teacher "
        f"{statistics.fmean(twin.values()):.4f}"
    )


def _gap_clause(
    outcome: str,
    teacher: float,
    difference: dict[str, Any],
    gap_closed: dict[str, Any] | None,
) -> str:
    if gap_closed is None:
        return (
            f"; the twin is no worse than the teacher ({teacher:.4f}), so there is no "
            "gap to close"
        )
    clause = ""
    # A share of the gap that may be luck, or is negative, is left to the table.
    if outcome == "won":
        share = f"{gap_closed['mean']:.1%}"
        clause = f"; that closes {share} of the gap to the teacher's {teacher:.4f}"
    if gap_closed["seeds"] < difference["seeds"]:
        seeds = f"{gap_closed['seeds']} of {difference['seeds']} seeds"
        clause += f"; only {seeds} have a twin worse than the teacher, a gap to close"
    return clause


def _spread_sentence(outcome: str, difference: dict[str, Any]) -> str:
    if difference["seeds"] == 1:
        return "This is one seed; --config.seeds=3 would show the spread."
    favoured = "student" if difference["mean"] > 0 else "twin"
    return (
        f"Over {difference['seeds']} seeds the paired difference is "
        f"{abs(difference['mean']):.4f} bits/byte in favour of the {favoured}, "
        f"{'within' if outcome == 'unclear' else 'beyond'} the spread "
        f"(two standard errors: {2 * difference['standard_error']:.4f})."
    )


# The tables: the same cells for the console and the page.


def table(results: dict[str, Any]) -> str:
    """Returns the report's tables as aligned text, one per held-out split.

    Args:
        results: What the experiment measured.

    Returns:
        Lines without a final newline; an arrow after a label points to better.
    """
    return "\n\n".join(map(_aligned, _tables(results, summarise(results))))


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
        brief = [metric for metric in METRICS if metric.key in BRIEF_METRICS]
        columns = {role: _scores(found, split, brief) for role, found in roles.items()}
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
    ends = dict.fromkeys([*found["best_steps"][:1], *found["best_steps"][-1:]])
    return {
        **_scores(found, VALIDATION, METRICS),
        "gap from twin to teacher closed (%) ↑": _cell(gap_closed, 1, 100.0),
        "best bits/byte along the run ↓": _cell(found["best_bits_per_byte"], 4),
        "best at training step": " to ".join(map(str, ends)) or ABSENT,
        "training tokens/s ↑": _cell(found["tokens_per_second"], 0),
        "training MFU (%) ↑": _cell(found["mfu"], 1, 100.0),
        "training steps skipped, by seed ↓": ", ".join(map(str, skipped)) or ABSENT,
        "forward tokens/s ↑": f"{model[speed]:,.0f}",
        "speed relative to teacher ↑": f"{model[speed] / teacher[speed]:.2f}x",
        "parameters ↓": f"{model[size]:,}",
        "size relative to teacher ↓": f"{model[size] / teacher[size]:.3f}x",
    }


def _scores(
    role: dict[str, Any], split: str, metrics: Sequence[Metric]
) -> dict[str, str]:
    final = role["final"].get(split, {})
    return {m.label: _cell(final.get(m.key), m.decimals, m.scale) for m in metrics}


def _cell(
    statistic: dict[str, Any] | None, decimals: int = 0, scale: float = 1.0
) -> str:
    if statistic is None:
        return ABSENT
    # The z turns the -0.0000 that rounding leaves of a tiny divergence into 0.0000.
    shown = f"{statistic['mean'] * scale:z,.{decimals}f}"
    if "spread" in statistic:
        shown += f" ± {statistic['spread'] * scale:,.{decimals}f}"
    return shown


# The plots.


def _plot_curves(results: dict[str, Any]) -> bytes:
    """Returns a PNG of held-out bits/byte against the training step."""
    drawing, plot = _axes(height=3.9)
    teacher = results["summary"]["roles"]["teacher"]["final"][VALIDATION]
    level = teacher["bits_per_byte"]["mean"]
    points: list[tuple[int, float]] = []
    for role in ("twin", "student"):  # the student last: it lies on top
        curves = [
            [(point["step"], point["bits_per_byte"]) for point in run["curve"]]
            for run in results["runs"]
            if run["role"] == role and run["curve"]
        ]
        _draw_curves(plot, role, curves)
        points += itertools.chain.from_iterable(curves)
    plot.axhline(level, color=COLORS["teacher"], lw=1.5, ls="--")
    plot.annotate(
        f"teacher, final: {level:.4f}",
        xy=(0.01, level),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        color=COLORS["teacher"],
    )
    low, high = _y_range(points, level)
    cut = any(value > high for _, value in points)
    plot.set(
        title="Held-out bits/byte while training"
        + (" (the first steps lie above)" if cut else ""),
        xlabel="training step",
        ylabel="held-out bits/byte",
        ylim=(low, high),
    )
    plot.legend(loc="upper right", frameon=False, reverse=True)
    return _png(drawing)


def _draw_curves(plot: axes.Axes, role: str, curves: Sequence[Points]) -> None:
    """Draws each of several seeds as a thin line and their mean as a thick one."""
    if not curves:
        return
    label = LABELS[role]
    if len(curves) > 1:
        label += f", mean of {len(curves)} seeds"
        for curve in curves:
            plot.plot(*zip(*curve, strict=True), color=COLORS[role], lw=0.9, alpha=0.6)
    by_step: dict[int, list[float]] = collections.defaultdict(list)
    for step, value in itertools.chain.from_iterable(curves):
        by_step[step].append(value)
    # A mean over fewer seeds than at the step before would jump for no reason.
    steps = sorted(step for step in by_step if len(by_step[step]) == len(curves))
    means = [statistics.fmean(by_step[step]) for step in steps]
    style: dict[str, Any] = {
        "color": COLORS[role],
        "marker": MARKERS[role],
        "ms": 4,
        "lw": 2,
    }
    plot.plot(steps, means, label=label, **style)


def _y_range(points: Points, teacher: float) -> tuple[float, float]:
    """Returns limits that hold the teacher and all but the first fifth of training.

    The untrained model's loss would press everything of interest into one line.
    """
    last = max((step for step, _ in points), default=0)
    shown = [teacher, *(value for step, value in points if step > last / 5)]
    margin = 0.1 * (max(shown) - min(shown)) or 0.1
    return min(shown) - margin, max(shown) + margin


def _plot_calibration(results: dict[str, Any]) -> bytes:
    """Returns a PNG of the accuracy against the confidence of the top-1 prediction."""
    drawing, plot = _axes(height=5.4)
    plot.plot([0, 100], [0, 100], color="#888888", lw=1.2, ls=":")
    for role, summary in results["summary"]["roles"].items():
        bins = _pool(
            part
            for run in results["runs"]
            if run["role"] == role
            for part in run["final"][VALIDATION]["calibration"]
        )
        total = sum(count for _, _, count in bins)
        x = [100 * confidence for confidence, _, _ in bins]
        y = [100 * accuracy for _, accuracy, _ in bins]
        areas = [12 + 400 * count / total for _, _, count in bins]
        error = _cell(summary["final"][VALIDATION]["calibration_error"], 2, 100.0)
        style: dict[str, Any] = {"color": COLORS[role], "marker": MARKERS[role]}
        plot.plot(x, y, lw=1.4, ms=3, label=f"{LABELS[role]}: error {error} %", **style)
        plot.scatter(x, y, s=areas, lw=0, alpha=0.6, **style)
    plot.set(
        title="Calibration on held-out text",
        xlabel="confidence of the top-1 prediction (%)",
        ylabel="accuracy of the top-1 prediction (%)",
        xlim=(0, 100),
        ylim=(0, 100),
        aspect="equal",
    )
    plot.legend(loc="upper left", frameon=False)
    return _png(drawing)


def _pool(parts: Iterable[dict[str, Any]]) -> list[tuple[float, float, int]]:
    """Returns confidence, accuracy and count of all seeds' bins, by deciles."""
    pools = collections.defaultdict(list)
    for part in parts:
        if part["count"]:
            pools[min(int(part["confidence"] * 10), 9)].append(part)
    result = []
    for _, pool in sorted(pools.items()):
        count = sum(part["count"] for part in pool)
        confidence = sum(part["confidence"] * part["count"] for part in pool) / count
        accuracy = sum(part["accuracy"] * part["count"] for part in pool) / count
        result.append((confidence, accuracy, count))
    return result


def _axes(height: float) -> tuple[figure.Figure, axes.Axes]:
    drawing = figure.Figure(figsize=(6.2, height), dpi=220, layout="constrained")
    plot = drawing.add_subplot()
    plot.spines[["top", "right"]].set_visible(False)
    plot.grid(color="#DDDDDD", lw=0.6)
    plot.set_axisbelow(True)
    return drawing, plot


def _png(drawing: figure.Figure) -> bytes:
    content = io.BytesIO()
    drawing.savefig(content, format="png")
    return content.getvalue()


# The page and the command line.


def _render(results: dict[str, Any], plots: Mapping[str, bytes]) -> str:
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
        images={name: base64.b64encode(png).decode() for name, png in plots.items()},
        colors=COLORS,
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
