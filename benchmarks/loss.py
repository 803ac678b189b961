"""Accuracy, memory and speed of the loss, against the naive path and peers.

    python -m benchmarks.loss [--only=accuracy,memory,cpu,cycles,gpu]

prints a table of each section with its goals, from one run, and writes
`benchmarks/results/loss-SECTION-DEVICE.json`, for `cpu` one per case. Programs for TPUs
and the H100 are compiled, not run; they and the peers need
`pip install -e '.[benchmark]'`. Whatever is not installed is reported, not skipped
silently. "gpu" runs where jax finds one.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags

from benchmarks import accuracy, common, race
from benchmarks.aot import Case, compilers, measure
from benchmarks.targets import FLOPS_PER_CYCLE, NAMES

SECTIONS = ("accuracy", "memory", "cycles", "cpu", "gpu")
_ONLY = flags.DEFINE_list("only", [], f"Sections to run; empty: all of {SECTIONS}.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds of `cpu` and `gpu`.")
_KINDS = flags.DEFINE_list("kinds", ["forward_kl", "jsd"], "For `cpu` and `gpu`.")
_VOCABULARIES = flags.DEFINE_list("vocabularies", ["32768", "131072"], "For `cpu`.")
_CHUNK = flags.DEFINE_integer("chunk_size", None, "Instead of the loss's own choice.")

FUSED_GIB, NAIVE_GIB = 2.0, 14.0
# Each of several devices holds its share, plus the unsharded part of a chunk.
SHARE_OF_ONE = 1.25
CYCLES_OVER_FLOOR = 1.6
MILLISECONDS_OVER_FLOOR = 1.5
MESHES = ((1, 2), (1, 4), (1, 8), (4, 2))  # fsdp, tensor
# Resharding, as opposed to gathering the head and reducing statistics.
RESHARDING = ("all-to-all", "ragged-all-to-all", "collective-permute")


def main(argv: list[str]) -> None:
    """Runs the sections."""
    del argv
    sections = _ONLY.value or SECTIONS
    if unknown := set(sections) - set(SECTIONS):
        raise app.UsageError(f"unknown section {unknown}; choose from {SECTIONS}")
    for section in SECTIONS:
        if section in sections and (result := _SECTIONS[section]()):
            common.save(f"loss-{section}", result, show=False)


def memory() -> dict[str, Any]:
    """Compiles for each accelerator, naive beside fused, and over several devices."""
    rows = []
    for target in NAMES:
        naive = measure(Case(target, "naive"))
        one = measure(Case(target, chunk_size=_CHUNK.value))
        held = naive.get("temporary_gib", math.inf if "error" in naive else None)
        enough = "as expected" if held and held >= NAIVE_GIB else "SMALLER"
        goals = f"{enough} (>= {NAIVE_GIB:g} or out of memory)"
        rows.append(_memory_row(target, "naive", naive, goals))
        fits = one.get("temporary_gib")
        rows.append(_memory_row(target, "fused", one, common.verdict(fits, FUSED_GIB)))
        for fsdp, tensor in MESHES:
            case = Case(target, chunk_size=_CHUNK.value, fsdp=fsdp, tensor=tensor)
            found = measure(case)
            goals = _sharding_goals(one, found, fsdp, tensor)
            name = f"fused, fsdp {fsdp} x tensor {tensor}"
            rows.append(_memory_row(target, name, found, goals))
    columns = ("target", "program", "temporary GiB", "loops", "collectives", "goals")
    common.table(
        "Temporary memory of a device, compiled: "
        "N=16384 Ds=2048 Dt=4096 V=151936, bfloat16",
        columns,
        [[row[column] for column in columns] for row in rows],
    )
    return {"compilers": compilers(), "case": Case("")._asdict(), "rows": rows}


def _memory_row(
    target: str, program: str, found: dict[str, Any], goals: str
) -> dict[str, Any]:
    return {
        "target": target,
        "program": program,
        "temporary GiB": found.get("temporary_gib", found.get("error")),
        "loops": found.get("loops"),
        "collectives": found.get("collectives", found.get("text")),
        "goals": goals,
    }


def _sharding_goals(
    one: dict[str, Any], found: dict[str, Any], fsdp: int, tensor: int
) -> str:
    goals = []
    # With fsdp the gathered heads are temporaries too, which one device does not have.
    if fsdp == 1 and "temporary_gib" in found and "temporary_gib" in one:
        share = found["temporary_gib"] * tensor / one["temporary_gib"]
        goals.append(f"share x{share:.2f} {common.verdict(share, SHARE_OF_ONE)}")
    if "collectives" in found:
        moved = sum(found["collectives"].get(name, 0) for name in RESHARDING)
        goals.append(f"resharding {moved} {common.verdict(moved, 0)}")
    return ", ".join(goals)


def cycles() -> dict[str, Any]:
    """Compares the compiler's cycle estimates with the FLOP floor."""
    rows = []
    for target, rate in FLOPS_PER_CYCLE.items():
        for kind in ("forward_kl", "jsd", "reverse_kl"):
            case = Case(target, kind=kind, chunk_size=_CHUNK.value)
            found = measure(case)
            count = found.get("cycles")
            ratio = None if count is None else round(count * rate / case.flops, 3)
            # The goal was set for one chip and the default divergence.
            goal = target == "v5e" and kind == "forward_kl"
            verdict = common.verdict(ratio, CYCLES_OVER_FLOOR) if goal else ""
            why = found.get("error") or found.get("text")
            rows.append(
                {
                    "target": target,
                    "kind": kind,
                    "Mcycles": why if count is None else round(count / 1e6, 1),
                    "floor": round(case.flops / rate / 1e6, 1),
                    "ratio": ratio,
                    "loops": found.get("loops"),
                    "goal": verdict,
                }
            )
    columns = tuple(rows[0])
    common.table(
        "Cycles the compiler estimates, not a timing, against the FLOP floor",
        columns,
        [list(row.values()) for row in rows],
    )
    return {"compilers": compilers(), "case": Case("")._asdict(), "rows": rows}


def cpu() -> None:
    """Races the implementations on the CPU; a case is saved as soon as it is done."""
    for vocabulary in map(int, _VOCABULARIES.value):
        shape: dict[str, Any] = {
            "tokens": 1024,
            "student_width": 512,
            "teacher_width": 1024,
            "vocabulary": vocabulary,
        }
        for kind in _KINDS.value:
            peers = ("TRL", "Liger", "Liger compiled")
            requests = race.requests(kind, peers, **shape, chunk_size=_CHUNK.value)
            found = race.run(requests, _ROUNDS.value, turns=True)
            ratios = race.compare(found, "cpu_s", "peak_bytes")
            race.show(f"CPU, float32, {kind}: {shape}", found, ratios)
            common.save(
                f"loss-cpu-{kind}-{vocabulary}",
                {
                    "peers": common.versions(race.PACKAGES),
                    "shape": shape,
                    "rows": found,
                    "ratios": ratios,
                },
                show=False,
            )


def gpu() -> dict[str, Any]:
    """Races the implementations on the GPU, against the measured matmul rate."""
    if jax.default_backend() != "gpu":
        print("\ngpu: no GPU here")
        return {}
    from benchmarks.gpu import matmul_rate

    case = Case("h100")
    shape: dict[str, Any] = {
        "tokens": case.tokens,
        "student_width": case.student_width,
        "teacher_width": case.teacher_width,
        "vocabulary": case.vocabulary,
        "dtype": "bfloat16",
    }
    rate = matmul_rate()
    floor = case.flops / rate
    result = {}
    for kind in _KINDS.value:
        requests = race.requests(kind, **shape, chunk_size=_CHUNK.value)
        found = race.run(requests, _ROUNDS.value, turns=False)
        ratios = race.compare(found, "wall_s", "accelerator_peak_bytes")
        race.show(f"GPU, {kind}: {shape}", found, ratios)
        fused = found[0].get("wall_s")
        ratio = None if fused is None else round(fused / floor, 3)
        verdict = common.verdict(ratio, MILLISECONDS_OVER_FLOOR)
        print(f"floor {1e3 * floor:.1f} ms; fused / floor {ratio} {verdict}")
        result[kind] = {"rows": found, "ratios": ratios, "fused / floor": ratio}
    floors = {"tflops": round(rate / 1e12, 1), "floor_ms": round(1e3 * floor, 1)}
    return {
        "peers": common.versions(race.PACKAGES),
        "shape": shape,
        "cases": result,
    } | floors


_SECTIONS: dict[str, Callable[[], dict[str, Any] | None]] = {
    "accuracy": accuracy.measure,
    "memory": memory,
    "cycles": cycles,
    "cpu": cpu,
    "gpu": gpu,
}

if __name__ == "__main__":
    app.run(main)
