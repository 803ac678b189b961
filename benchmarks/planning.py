"""Compares the planner's formulas with compiled programs.

    python -m benchmarks.planning

Reads what `python -m benchmarks.step_aot` has compiled, computes the formulas of the
same steps, prints both and writes results/planning.json. It takes seconds.
"""

import json
import statistics
import sys
from typing import Any

from benchmarks import common, step_aot
from benchmarks.aot_cases import CASES, subject
from kdjax.planning.memory import memory
from kdjax.planning.resolve import Subject
from kdjax.planning.time import times
from kdjax.planning.transfers import SENT

GOAL = 0.1  # of the compiler's memory
_COLUMNS = (
    *("case", "compiler GiB", "formula", "off", "at"),
    *("cycles ms", "formula", "off", "sent GB", "formula"),
)


def main() -> None:
    """Prints and writes the comparison."""
    rows = {
        name: compare(name, row)
        for name, row in step_aot.read().items()
        if "error" not in row
    }
    if not rows:
        sys.exit("nothing is compiled; run python -m benchmarks.step_aot first")
    misses = [abs(row["memory_off"]) for row in rows.values()]
    works = [abs(row["work_off"]) for row in rows.values() if "work_off" in row]
    summary = {
        "within_goal": sum(miss <= GOAL for miss in misses),
        "of": len(misses),
        "largest_memory_miss": round(max(misses), 3),
        "median_memory_miss": round(statistics.median(misses), 3),
        "largest_work_miss": round(max(works), 3),
        "median_work_miss": round(statistics.median(works), 3),
    }
    common.table("Formulas and compilers", _COLUMNS, [*map(_line, rows.items())])
    print(json.dumps(summary, indent=1))
    result = {"summary": summary, "cases": rows}
    (common.RESULTS / "planning.json").write_text(json.dumps(result, indent=1) + "\n")


def compare(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Returns formula and compiler of one case."""
    planned = subject(CASES[name])
    formula, taken = memory(planned), times(planned)
    compiler = row["arguments"] + row["temporary"] + row["results"]
    found: dict[str, Any] = {
        "compiler_gib": round(compiler / step_aot.GIB, 3),
        "formula_gib": round(formula.total / step_aot.GIB, 3),
        "memory_off": round(formula.total / compiler - 1, 3),
        "moment": formula.moment,
        "sent_gb": round(row["gigabytes_loop"] + row["gigabytes_once"], 2),
        "formula_gb": round(_sent(planned) / 1e9, 2),
    }
    if "cycles_ms" in row:  # which leave kernels and transfers out
        kernels = taken.attention if row["kernels_ms"] else 0.0
        work = 1e3 * (taken.work - kernels)
        found |= {
            "cycles_ms": row["cycles_ms"],
            "work_ms": round(work, 1),
            "work_off": round(work / row["cycles_ms"] - 1, 3),
        }
    return found


def _sent(planned: Subject) -> float:
    """Returns the bytes that collectives give a device, as `step_aot` counts them."""
    total = 0.0
    for axis, devices in planned.mesh.items():
        if devices > 1:
            size = sum(SENT[axis](planned).values())
            total += size if axis == "fsdp" else size / 2  # an all-reduce counts once
    return total


def _line(named: tuple[str, dict[str, Any]]) -> tuple[Any, ...]:
    name, row = named
    moment = row["moment"].removeprefix("the ").removeprefix("student's ")
    work = row.get("work_off")
    return (
        *(name, f"{row['compiler_gib']:.2f}", f"{row['formula_gib']:.2f}"),
        *(f"{row['memory_off']:+.1%}", moment.removesuffix(" pass")),
        *(row.get("cycles_ms"), row.get("work_ms"), work and f"{work:+.0%}"),
        *(row["sent_gb"], row["formula_gb"]),
    )


if __name__ == "__main__":
    main()
