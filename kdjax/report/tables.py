"""The report's tables, as rows of text."""

from collections.abc import Iterable, Sequence

from kdjax.report.summary import ABSENT, METRICS, RoleSummary, Summary, cell, summarise
from kdjax.report.words import bits
from kdjax.results.data import VALIDATION
from kdjax.results.measured import Results, teacher_role

_BRIEF = ("bits_per_byte", "forward_kl", "agreement")  # metrics of the other splits


def table(results: Results) -> str:
    """Returns the report's tables as aligned text, one per held-out split.

    Args:
        results: What the experiment measured.

    Returns:
        Lines without a final newline; an arrow after a label shows which
            direction is better.
    """
    return "\n\n".join(map(_aligned, tables(results, summarise(results))))


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *body = rows
    return "\n".join(
        "  ".join((label.ljust(widths[0]), *map(str.rjust, cells, widths[1:])))
        for label, *cells in (header, ["-" * width for width in widths], *body)
    )


def tables(results: Results, summary: Summary) -> list[list[tuple[str, ...]]]:
    """Returns a table per split, the headline's first; its first row is the header."""
    roles = summary.roles
    splits = dict.fromkeys(split for role in roles.values() for split in role.final)
    del splits[results.headline]
    headline = {role: _headline(role, results, summary) for role in roles}
    tables = [_table(results.headline, headline)]
    for split in splits:
        columns = {role: _scores(found, split, _BRIEF) for role, found in roles.items()}
        tables.append(_table(split, columns))
    return tables


def _table(split: str, columns: dict[str, dict[str, str]]) -> list[tuple[str, ...]]:
    """Returns the columns as rows, leaving out rows without any value."""
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
    roles = summary.roles.values()
    is_skipping = any(sum(each.skipped_steps) for each in roles)
    skipped = ", ".join(map(str, found.skipped_steps)) if is_skipping else ""
    is_rewound = any(sum(each.rows_left_out) for each in roles)
    left_out = ", ".join(map(str, found.rows_left_out)) if is_rewound else ""
    along = "" if results.headline == VALIDATION else f"{VALIDATION} "
    ends = dict.fromkeys([*found.best_steps[:1], *found.best_steps[-1:]])
    others = dict.fromkeys(name for role in roles for name in role.others)
    return {
        **_scores(found, results.headline, METRICS),
        **{name: cell(found.others.get(name), 4) for name in others},
        "gap from twin to teacher closed (%) ↑": cell(gap_closed, 1, 100.0),
        f"best {along}bits/byte along the run ↓": cell(found.best_bits_per_byte, 4),
        "best at training step": " to ".join(map(str, ends)) or ABSENT,
        "training tokens/s ↑": cell(found.tokens_per_second, 0),
        "training MFU (%) ↑": cell(found.mfu, 1, 100.0),
        "training device-seconds ↓": cell(found.seconds, 1),
        "training CPU-seconds ↓": cell(found.cpu_seconds, 1),
        "training FLOPs ↓": f"{found.flops.mean:.2e}" if found.flops else ABSENT,
        "training steps skipped, by seed ↓": skipped or ABSENT,
        "rows left out where the loss jumped, by seed ↓": left_out or ABSENT,
        "forward tokens/s ↑": f"{speed:,.0f}",
        "speed relative to teacher ↑": f"{speed / usual:.2f}x",
        "parameters ↓": f"{model.parameters:,}",
        "size relative to teacher ↓": f"{model.parameters / teacher.parameters:.3f}x",
        "weights as stored": bits(stored) if stored else ABSENT,
    }


def _scores(role: RoleSummary, split: str, keys: Iterable[str]) -> dict[str, str]:
    shown = {}
    for key in keys:
        metric = METRICS[key]
        value = role.final[split][key]
        shown[metric.label] = cell(value, metric.decimals, metric.scale)
    return shown
