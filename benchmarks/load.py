"""How fast checkpoints are loaded, and with how much memory.

    python -m benchmarks.load

writes random float32 checkpoints with the shapes of GPT-2 small, whose file stores
kernels as kdjax does, and of SmolLM2-135M, whose file stores them transposed. It then
alternates loading them with plain reads of the same file, by then in the page cache.
A separate process measures the peak of anonymous memory while loading (Linux), which
excludes the mapped file and whatever was allocated before.
"""

import json
import pathlib
import statistics
import tempfile
import threading
import time
from typing import Any

import jax
from absl import app, flags

from benchmarks import common
from kdjax import models
from kdjax.config import ModelConfig

_ROUNDS = flags.DEFINE_integer("rounds", 7, "Loads and reads of each checkpoint.")

SPEED_OF_READ = 0.7  # required only of the file without transposed kernels
MEMORY_OF_LARGEST = 1.3  # of the largest parameter, above what is kept
CASES = {
    "GPT-2 small": ModelConfig(
        layers=12,
        width=768,
        heads=12,
        vocab_size=50_257,
        positions="learned",
        max_length=1024,
        norm="layernorm",
        mlp="plain",
        activation="gelu_tanh",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    ),
    "SmolLM2-135M": ModelConfig(
        layers=30, width=576, heads=9, kv_heads=3, ffn_width=1536, vocab_size=49_152
    ),
}


def main(argv: list[str]) -> None:
    """Runs the benchmark, or, given a checkpoint, measures the memory to load it."""
    if argv[1:]:
        print(json.dumps(memory(**json.loads(argv[1]))))
        return
    rows = []
    for name, config in CASES.items():
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "checkpoint"
            model = models.build(config)
            models.save_pretrained(
                path,
                model,
                jax.jit(model.init)(jax.random.key(0)),
                tokenizer=None,
                card="",
            )
            rows.append({"checkpoint": name} | _figures(path, _ROUNDS.value))
    common.table(
        "Loading float32 checkpoints that the system has in memory",
        tuple(rows[0]),
        [list(row.values()) for row in rows],
    )
    common.save("load", {"rows": rows}, show=False)


def _figures(path: pathlib.Path, rounds: int) -> dict[str, Any]:
    file = path / "model.safetensors"
    gigabytes = file.stat().st_size / 1e9
    times = common.interleaved(
        {
            "load": lambda: models.load_pretrained(path)[1],
            "read": lambda: len(file.read_bytes()),
        },
        rounds,
    )
    ratio = common.median_ratio(times["read"], times["load"])
    used = common.in_fresh_process("benchmarks.load", {"path": str(path)})
    if "error" in used:
        raise app.UsageError(f"the memory cannot be measured: {used['error']}")
    return {
        "GB": round(gigabytes, 3),
        "load GB/s": round(gigabytes / statistics.median(times["load"]), 2),
        "read GB/s": round(gigabytes / statistics.median(times["read"]), 2),
        "load / read": round(ratio, 2),
        "kept MB": round(used["kept"] / 1e6),
        "largest MB": round(used["largest"] / 1e6),
        "peak MB": round(used["peak"] / 1e6),
        "(peak - kept) / largest": round(used["beyond"], 2),
        "goals": f"speed {'met' if ratio >= SPEED_OF_READ else 'MISSED'} "
        f"(>= {SPEED_OF_READ:g}), "
        f"memory {common.verdict(used['beyond'], MEMORY_OF_LARGEST)}",
    }


def memory(path: str) -> dict[str, float]:
    """Returns the bytes of what is kept, the largest parameter and the load's peak."""
    jax.block_until_ready(jax.numpy.zeros(()))  # exclude jax's own threads and pools
    before = peak = _anonymous()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, _anonymous())
            time.sleep(5e-4)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    params = jax.block_until_ready(models.load_pretrained(path)[1])
    done.set()
    watcher.join()
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(params)]
    used = peak - before
    return {
        "kept": sum(sizes),
        "largest": max(sizes),
        "peak": used,
        "beyond": (used - sum(sizes)) / max(sizes),
    }


def _anonymous() -> int:
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    app.run(main)
