"""Reads loops, collectives and cycles from a compiled program's text and jaxpr."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all"
    r"|collective-permute|collective-broadcast)(?:-start)?\("
)
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_WHILE = re.compile(r" while\(.*?body=%?([\w.\-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class Loop(NamedTuple):
    """A loop known before compilation: its trip count, and the loops inside it."""

    length: int
    inside: list["Loop"]


def collectives(text: str) -> Iterator[str]:
    """Yields the kind of every collective in the text; one in a loop counts once."""
    for line in text.splitlines():
        if found := _COLLECTIVE.search(line):
            yield found[1]


def loops(jaxpr: Any) -> list[Loop]:
    """Returns a jaxpr's scans, each with those inside it."""
    found = []
    for equation in jaxpr.eqns:
        inside: list[Loop] = []
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    inside += loops(inner)
        if equation.primitive.name == "scan":
            found.append(Loop(equation.params["length"], inside))
        else:
            found += inside
    return found


def cycles(text: str, scans: list[Loop]) -> dict[str, Any]:
    """Returns the compiler's estimated cycles, each loop's times its trip count.

    The text has no trip counts: its loops must match the program's scans one to one,
    or "cycles" is None. Hand-written kernels have no estimates, so "kernels" counts
    them.
    """
    parts = _computations(text)

    def total(name: str, scans: list[Loop]) -> int:
        bodies = [found[1] for line in parts[name] if (found := _WHILE.search(line))]
        inside = zip(bodies, scans, strict=True)
        own = sum(int(found) for line in parts[name] for found in _CYCLES.findall(line))
        return own + sum(
            scan.length * total(body, scan.inside) for body, scan in inside
        )

    kernels = text.count('custom_call_target="tpu_custom_call"')
    try:
        return {"cycles": total("ENTRY", scans), "kernels": kernels}
    except ValueError:
        return {"cycles": None, "kernels": kernels}


def reason(message: str) -> str:
    """Returns the relevant part of a compiler's message."""
    if found := re.search(r"[\d.]+[GM]\S*\) exceeds available\D*[\d.]+[GM]", message):
        return "out of memory: (" + found[0]
    if "RESOURCE_EXHAUSTED" in message:
        return "out of memory"
    return message.strip().splitlines()[0][:160]


def _computations(text: str) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if header := _HEADER.match(line):
            lines = parts.setdefault("ENTRY" if header[1] else header[2], [])
        else:
            lines.append(line)
    return parts
