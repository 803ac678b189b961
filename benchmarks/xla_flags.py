"""What kdjax's XLA flags change, by compiling for TPUs that need not be here.

    pip install -e '.[benchmark]'
    python -m benchmarks.xla_flags

Compiles forward and backward pass of 8 layers, whose parameters are sharded over all
chips, for each topology: as the compiler does by itself, with kdjax's flags, and for
v5e with those that other projects set there. Counts the collectives, and how many of
them run beside computation. Each case is a process of its own, since flags are read
once. Prints a table and writes benchmarks/results/xla-flags.json.
"""

import collections
import datetime
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

from kdjax.core.xla_flags import FLAGS

FUSION = (
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
    "--xla_enable_async_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true",
    "--xla_enable_async_all_reduce=true",
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",
)
CASES = {
    ("v5p:2x2x2", "none"): (),
    ("v5p:2x2x2", "kdjax"): FLAGS["v5p"],
    ("v6e:4x4", "none"): (),
    ("v6e:4x4", "kdjax"): FLAGS["v6e"],
    ("v5e:4x4", "none"): (),
    ("v5e:4x4", "collective fusion"): FUSION,
}
_OPS = ("all-gather", "reduce-scatter", "all-reduce")
_RESULTS = pathlib.Path(__file__).parent / "results" / "xla-flags.json"
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(r"(?:calls=|called_computations=\{)%?([\w.\-]+)")
_COLLECTIVE = re.compile(rf" ({'|'.join(_OPS)})\(.*channel_id=(\d+)")


def main() -> None:
    """Compiles every case, prints the table and writes the results."""
    rows = []
    for (topology, name), flags in CASES.items():
        rows.append(
            {"topology": topology, "flags": name} | _in_process(topology, flags)
        )
        print(json.dumps(rows[-1]), flush=True)
    versions = {p: importlib.metadata.version(p) for p in ("jax", "libtpu")}
    created = datetime.datetime.now(datetime.UTC).date().isoformat()
    results = {"created": created, "versions": versions, "rows": rows}
    _RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def _in_process(topology: str, flags: tuple[str, ...]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as dump:
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "LIBTPU_INIT_ARGS": " ".join(flags),
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "XLA_FLAGS": f"--xla_dump_to={dump} --xla_dump_hlo_as_text "
            "--xla_dump_hlo_module_re=.*train_step.*",
        }
        command = [sys.executable, "-m", "benchmarks.xla_flags", topology]
        subprocess.run(command, env=env, check=True, stderr=subprocess.DEVNULL)
        (text,) = pathlib.Path(dump).glob("*after_codegen.txt")
        return count(text.read_text())


def count(text: str) -> dict[str, Any]:
    """Returns how many collectives a program has, by kind, and how many overlap.

    One that is cut into several fused operations has one channel, and counts once.

    Args:
        text: The program's HLO after code generation.
    """
    bodies: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name = header[1]
        bodies.setdefault(name, []).append(line)
    # Computations that an asynchronous start calls, and those that they call; fused
    # collectives are spread over the products beside them.
    beside = {name for name in bodies if "async_collective" in name}
    waiting = re.findall(r" async-start\(.*?calls=%?([\w.\-]+)", text)
    while waiting:
        if (name := waiting.pop()) not in beside:
            beside.add(name)
            waiting += _CALLED.findall("\n".join(bodies.get(name, ())))
    kinds: dict[str, str] = {}
    overlapping = set()
    for name, lines in bodies.items():
        for line in lines:
            if found := _COLLECTIVE.search(line):
                kinds[found[2]] = found[1]
                if name in beside:
                    overlapping.add(found[2])
    counted = collections.Counter(kinds.values())
    return {kind: counted[kind] for kind in _OPS} | {"asynchronous": len(overlapping)}


def compile_layers(topology: str) -> None:
    """Compiles a step of 8 gated layers for a topology."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    layers, width, length = 8, 2048, 2048
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    mesh = Mesh(np.asarray(devices), ("fsdp",))
    whole = NamedSharding(mesh, P())

    def stored(*shape: int, spec: tuple[str | None, ...]) -> jax.ShapeDtypeStruct:
        where = NamedSharding(mesh, P(*spec))
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)

    params = {
        "up": stored(layers, width, 4 * width, spec=(None, "fsdp", None)),
        "down": stored(layers, 4 * width, width, spec=(None, None, "fsdp")),
    }
    x = stored(len(devices), length, width, spec=("fsdp", None, None))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, one: Any) -> tuple[jax.Array, None]:
            up, down = (
                jax.lax.with_sharding_constraint(one[n].astype(jnp.bfloat16), whole)
                for n in ("up", "down")
            )
            return x + jnp.tanh(x @ up) @ down, None

        y, _ = jax.lax.scan(jax.checkpoint(layer), x.astype(jnp.bfloat16), params)
        return jnp.square(y.astype(jnp.float32)).mean()

    def train_step(params: Any, x: jax.Array) -> Any:
        gradients = jax.grad(loss)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)

    out = jax.tree.map(lambda p: p.sharding, params)
    jax.jit(train_step, out_shardings=out).lower(params, x).compile()


if __name__ == "__main__":
    compile_layers(sys.argv[1]) if sys.argv[1:] else main()
