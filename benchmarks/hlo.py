"""What a compiled program's text and jaxpr say: loops, collectives, cycles."""

import re
from collections.abc import Iterator
from typing import Any

_COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all"
    r"|collective-permute|collective-broadcast)(?:-start)?\("
)
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


def collectives(text: str) -> Iterator[str]:
    """Yields the kind of every collective in the text; one in a loop comes once."""
    for line in text.splitlines():
        if found := _COLLECTIVE.search(line):
            yield found[1]


def scan_lengths(jaxpr: Any) -> list[int]:
    """Returns the lengths of all scans, also of nested ones, in order."""
    lengths = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            lengths.append(equation.params["length"])
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    lengths += scan_lengths(inner)
    return lengths


def cycles(text: str, chunks: list[int]) -> dict[str, Any]:
    """Returns the compiler's estimated cycles, each loop's times its trip count.

    The text does not hold trip counts; the loss has one loop, over `chunks[0]` chunks.
    A hand-written kernel carries no estimate; their number is returned.
    """
    parts = _computations(text)
    bodies = re.findall(r" while\(.*?body=%?([\w.\-]+)", text)
    if len(bodies) > 1 or len(bodies) != len(chunks):
        return {"cycles": None, "loops": [len(bodies), chunks]}
    entry = _sum(parts["ENTRY"])
    body = _sum(parts[bodies[0]]) if bodies else 0
    return {
        "cycles": entry + body * (chunks[0] if bodies else 0),
        "cycles_outside": entry,
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
    }


def fusions(text: str, computation: str = "ENTRY") -> list[tuple[int, str]]:
    """Returns the instructions of a computation by estimated cycles, longest first."""
    found = []
    for line in _computations(text)[computation]:
        if match := _CYCLES.search(line):
            found.append((int(match[1]), line.strip()[:160]))
    return sorted(found, reverse=True)


def reason(message: str) -> str:
    """Returns the telling part of a compiler's message."""
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


def _sum(lines: list[str]) -> int:
    return sum(int(found) for line in lines for found in _CYCLES.findall(line))
