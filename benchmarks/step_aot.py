"""Compiles whole train steps for accelerators that this machine lacks.

    python -m benchmarks.step_aot                       # the small cases
    python -m benchmarks.step_aot '8b-1b v5p 4096'      # cases of aot_cases by name
    python -m benchmarks.step_aot --texts=DIRECTORY     # keep what compilers wrote

Each is compiled as the planner compiles it: the program of a run, in a fresh process.
Of each, memory a device, collectives in and out of loops and the compiler's cycles
(TPUs only, without kernels and transfers) go to results/step-aot.json, where they
replace what was there of the same name. benchmarks/planning.py compares the planner's
formulas with them.
"""

import json
import pathlib
import sys
import tempfile
from typing import Any

from benchmarks import common, hlo_program, targets
from benchmarks.aot_cases import CASES, SMALL, subject
from kdjax.planning.compiled import Compiled, ask
from kdjax.planning.layers import layer_of
from kdjax.planning.resolve import Subject, to_json
from kdjax.planning.time import times

PATH = common.RESULTS / "step-aot.json"
GIB = 2**30
_COLUMNS = ("case", "GiB", "cycles ms", "+ kernels", "MFU", "in loops GB", "once GB")


def main(arguments: list[str]) -> None:
    """Compiles the cases and writes what was found.

    Args:
        arguments: Names of cases, and perhaps a directory for the compilers' texts:
            those that are there are read again, and nothing is compiled.
    """
    texts = [each for each in arguments if each.startswith("--texts=")]
    names = [each for each in arguments if each not in texts]
    unknown = [name for name in names if name not in CASES]
    if unknown:
        sys.exit(f"there is no case {unknown[0]!r}; there are {', '.join(CASES)}")
    rows = read()
    for name in names or SMALL:
        with tempfile.TemporaryDirectory() as temporary:
            kept = texts[0].partition("=")[2] if texts else temporary
            rows[name] = measure(name, pathlib.Path(kept) / name)
        print(json.dumps({name: rows[name]}), flush=True)
        ordered = {case: rows[case] for case in CASES if case in rows}
        PATH.write_text(json.dumps(ordered, indent=1) + "\n")
    common.table("Whole steps, compiled ahead of time", _COLUMNS, _table(rows))


def read() -> dict[str, Any]:
    """Returns what was measured before, by case."""
    found: dict[str, Any] = json.loads(PATH.read_text()) if PATH.exists() else {}
    return found


def measure(name: str, directory: pathlib.Path) -> dict[str, Any]:
    """Returns the figures of one case, or {"error": reason} among them.

    Args:
        name: The case.
        directory: Where the compiler's texts are, or will be.
    """
    case, found = CASES[name], subject(CASES[name])
    row: dict[str, Any] = {"target": case.target, "mesh": dict(found.mesh)}
    row |= {"remat": case.remat, "micro_batches": case.micro}
    answer = directory / "answer.json"
    if not answer.exists():
        dump = (
            f"--xla_dump_to='{directory}' --xla_dump_hlo_as_text "
            "--xla_dump_hlo_module_re=.*train_step.*"
        )
        said = _environment() | ask(to_json(found), XLA_FLAGS=dump)
        directory.mkdir(parents=True, exist_ok=True)
        answer.write_text(json.dumps(said))
    row |= json.loads(answer.read_text())
    return row if "error" in row else row | _program(found, directory)


def _environment() -> dict[str, Any]:
    kept = ("jax", "date")
    found = {key: common.environment()[key] for key in kept}
    return found | {"compilers": common.versions(targets.PACKAGES.values())}


def _program(found: Subject, directory: pathlib.Path) -> dict[str, Any]:
    """Returns what the compiled program's text tells."""
    is_tpu = found.target.chip.platform == "tpu"
    ending = "after_codegen" if is_tpu else "gpu_after_optimizations"
    files = directory.glob(f"*train_step*{ending}.txt")
    text = max(files, key=lambda file: file.stat().st_size).read_text()
    program = hlo_program.read_program(text)
    collectives = hlo_program.collectives(program)
    row: dict[str, Any] = {"unknown_loops": len(program.unknown)}
    for where in ("loop", "once"):
        sizes = [each["gigabytes"] for each in collectives if each["where"] == where]
        row[f"gigabytes_{where}"] = round(sum(sizes), 3)
    if is_tpu:
        row |= _estimates(found, hlo_program.cycles(program))
    return row | {"collectives": collectives}


def _estimates(found: Subject, cycles: int) -> dict[str, Any]:
    """Returns the step's time by the compiler's cycles; kernels' by the formula."""
    chip, formula = found.target.chip, times(found)
    work = cycles * targets.FLOPS_PER_CYCLE[chip.name] / chip.flops
    # Without a kernel, the cycles count attention as well.
    is_kernel = layer_of(found, found.student).kernel != "xla"
    attention = formula.attention if is_kernel else 0.0
    return {
        "cycles": cycles,
        "cycles_ms": round(work * 1e3, 1),
        "kernels_ms": round(attention * 1e3, 1),
        "mfu": round(formula.model_flops / chip.flops / (work + attention), 3),
    }


def _table(rows: dict[str, Any]) -> list[tuple[Any, ...]]:
    lines = []
    for name, row in rows.items():
        if "error" in row:
            lines.append((name, row["error"], *[None] * (len(_COLUMNS) - 2)))
            continue
        total = Compiled(
            *(row[key] for key in ("arguments", "temporary", "results", "seconds"))
        ).total
        mfu = row.get("mfu")
        lines.append(
            (
                name,
                f"{total / GIB:.2f}",
                row.get("cycles_ms"),
                row.get("kernels_ms"),
                mfu and f"{mfu:.0%}",
                row["gigabytes_loop"],
                row["gigabytes_once"],
            )
        )
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
