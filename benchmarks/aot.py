"""Compiles the loss for accelerators that this machine lacks.

    python -m benchmarks.aot '{"target": "v5e", "implementation": "fused"}'

prints the compiled program's memory, collectives and estimated cycles as JSON. Each
program is compiled in a process of its own (`measure`): a compiler crash must not end
the benchmark, and the target must be chosen before jax starts.
"""

import json
import sys
import time
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import common, hlo, programs, targets
from kdjax import losses

GIB = 2.0**30


class Case(NamedTuple):
    """One program: its computation, sizes and mesh."""

    target: str
    implementation: str = "fused"
    kind: str = "forward_kl"
    tokens: int = 16384
    student_width: int = 2048
    teacher_width: int = 4096
    vocabulary: int = 151936
    chunk_size: int | None = None
    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def devices(self) -> int:
        """The number of devices that run the program."""
        return self.data * self.fsdp * self.tensor

    @property
    def flops(self) -> float:
        """Matmul FLOPs per device: three student-head products, one teacher-head."""
        widths = 6 * self.student_width + 2 * self.teacher_width
        return float(self.tokens * widths * self.vocabulary) / self.devices


def compilers() -> dict[str, str]:
    """Returns the version of each platform's compiler package, or "absent"."""
    return common.versions(targets.PACKAGES.values())


def measure(case: Case) -> dict[str, Any]:
    """Returns the figures of one program, or {"error": reason}."""
    package = targets.PACKAGES[targets.platform(case.target)]
    if compilers()[package] == "absent":
        return {"error": f"{package} is absent"}
    return common.in_fresh_process(
        "benchmarks.aot",
        case._asdict(),
        JAX_PLATFORMS="cpu",  # else the plugin looks for a driver
        TPU_SKIP_MDS_QUERY="1",
        TPU_WORKER_HOSTNAMES="localhost",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )


def compile_case(case: Case) -> dict[str, Any]:
    """Compiles in this process and returns the figures."""
    devices = topologies.get_topology_desc(
        platform=targets.platform(case.target),
        **targets.options(case.target, case.devices),
    ).devices
    shape = (case.data, case.fsdp, case.tensor)
    mesh = Mesh(np.asarray(devices).reshape(shape), ("data", "fsdp", "tensor"))
    function, arguments = _program(case, mesh)
    started = time.perf_counter()
    with jax.set_mesh(mesh):
        lowered = jax.jit(function).lower(*arguments)
        loops = hlo.loops(jax.make_jaxpr(function)(*arguments).jaxpr)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            return {"error": hlo.reason(str(error))}
    memory: Any = compiled.memory_analysis()
    figures = {
        "temporary_gib": round(memory.temp_size_in_bytes / GIB, 3),
        "arguments_gib": round(memory.argument_size_in_bytes / GIB, 3),
        "compile_s": round(time.perf_counter() - started, 1),
        "loops": loops,
    }
    try:
        text = str(compiled.as_text())
    except jax.errors.JaxRuntimeError as error:  # known to fail on async operations
        return figures | {"text": hlo.reason(str(error))}
    figures["collectives"] = dict(Counter(hlo.collectives(text)))
    if targets.platform(case.target) == "tpu":
        figures |= hlo.cycles(text, loops)
    return figures


def _program(case: Case, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """Returns the function that computes the loss and gradients, and its arguments."""

    def argument(shape: tuple[int, ...], spec: PartitionSpec, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    tokens = PartitionSpec(("data", "fsdp"))
    head = PartitionSpec("fsdp", "tensor")
    n, v = case.tokens, case.vocabulary
    arguments = (
        argument((n, case.student_width), tokens, jnp.bfloat16),
        argument((case.student_width, v), head, jnp.bfloat16),
        argument((n, case.teacher_width), tokens, jnp.bfloat16),
        argument((case.teacher_width, v), head, jnp.bfloat16),
        argument((n,), tokens, jnp.int32),
        argument((n,), tokens, jnp.float32),
    )
    function = programs.loss_with_gradients(
        case.implementation, case.kind, case.chunk_size, losses.LossSharding(mesh)
    )
    return function, arguments


if __name__ == "__main__":
    print(json.dumps(compile_case(Case(**json.loads(sys.argv[1])))))
