"""Reads how often a compiled program runs what: cycles, and what devices exchange."""

import re
from collections import defaultdict
from typing import Any, NamedTuple

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(
    r"(?:calls|to_apply|branch_computations|called_computations)=\{?%?([\w.\-]+)"
)
_COLLECTIVE = re.compile(
    r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\("
)
_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16|f8\w+)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_UNKNOWN = 2**60  # what stands for no estimate is larger
_GROUPS = (
    re.compile(r"replica_groups=\[\d+,(\d+)\]"),
    re.compile(r"replica_groups=\{\{([\d,]+)\}"),
    re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}"),
)


class Program(NamedTuple):
    """A program's computations, and how often a step runs each.

    Attributes:
        parts: The lines of each computation.
        times: How often each is run; those that nothing calls are left out.
        loops: The loop's body, or the entry, that each is called in.
        unknown: Loops whose trip counts the text does not tell; they count once.
    """

    parts: dict[str, list[str]]
    times: dict[str, float]
    loops: dict[str, str]
    unknown: list[str]


def read_program(text: str) -> Program:
    """Returns the program in a compiler's text."""
    parts: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            lines = parts.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        else:
            lines.append(line)
    times: dict[str, float] = defaultdict(float)
    loops: dict[str, str] = {}
    unknown: list[str] = []

    def visit(name: str, count: float, loop: str) -> None:
        times[name] += count
        loops[name] = loop
        for line in parts.get(name, ()):
            if " while(" in line:
                body = re.search(r"body=%?([\w.\-]+)", line)
                trips = _trips(parts, line)
                if trips is None and body:
                    unknown.append(body[1])
                if body:
                    visit(body[1], count * (trips or 1), body[1])
            else:
                for called in _CALLED.findall(line):
                    visit(called, count, loop)

    visit(entry, 1.0, entry)
    return Program(parts, dict(times), loops, unknown)


def _trips(parts: dict[str, list[str]], line: str) -> int | None:
    if found := re.search(r"known_trip_count\W*n\W*(\d+)", line):
        return int(found[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    lines = parts.get(condition[1], []) if condition else []
    bounds = {
        n for each in lines for n in re.findall(r"s32\[\]\S* constant\((\d+)\)", each)
    }
    return int(bounds.pop()) if len(bounds) == 1 else None


def cycles(program: Program) -> int:
    """Returns the compiler's estimate; hand-written kernels have none."""
    found = (
        count * int(each)
        for name, count in program.times.items()
        for line in program.parts.get(name, ())
        for each in _CYCLES.findall(line)
        if int(each) < _UNKNOWN
    )
    return round(sum(found))


def collectives(program: Program) -> list[dict[str, Any]]:
    """Returns the collectives by kind and group, the largest first.

    Bytes are those of the whole array that a collective makes or sums up, times its
    runs. An asynchronous one stands where it starts, where it ends and where it goes on
    meanwhile, each time with the same channel, and counts once.
    """
    seen: set[tuple[str, str]] = set()
    found: dict[tuple[str, int, str], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for name, count in program.times.items():
        for line in program.parts.get(name, ()):
            match = _COLLECTIVE.search(line)
            if not match:
                continue
            channel = re.search(r"channel_id=(\d+)", line)
            key = program.loops[name], channel[1] if channel else line
            if key in seen:
                continue
            seen.add(key)
            arrays = _ARRAY.findall(match[1])
            sizes = [_bytes(*array) for array in arrays]
            # What starts an asynchronous one returns its operand as well.
            moved = max(sizes, default=0) if match[3] else sum(sizes)
            if match[2] == "reduce-scatter":
                moved *= _group(line)
            where = "loop" if count > 1 else "once"
            total = found[match[2], _group(line), where]
            total[0] += 1
            total[1] += count
            total[2] += count * moved
    rows = [
        {
            "kind": kind,
            "group": group,
            "where": where,
            "places": int(places),
            "runs": int(runs),
            "gigabytes": round(size / 1e9, 3),
        }
        for (kind, group, where), (places, runs, size) in found.items()
    ]
    return sorted(rows, key=lambda row: -row["gigabytes"])


def _bytes(dtype: str, dims: str) -> float:
    bits = (
        8 if dtype in ("pred",) or dtype.startswith("f8") else int(dtype.lstrip("bsuf"))
    )
    size = bits / 8
    for dim in filter(None, dims.split(",")):
        size *= int(dim)
    return size


def _group(line: str) -> int:
    """Returns how many devices take part in each group of a collective."""
    for pattern in _GROUPS:
        if found := pattern.search(line):
            if len(found.groups()) == 2:
                sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
                group = 1
                for axis in re.findall(r"'(\w+)'", found[2]):
                    group *= int(sizes.get(axis, 1))
                return group
            return (
                int(found[1])
                if found[1].isdigit() and "{{" not in found[0]
                else (found[1].count(",") + 1)
            )
    return 0
