"""One implementation of the loss in a process of its own, driven line by line.

    python -m benchmarks.contenders '{"name": "kdjax fused", "kind": "forward_kl", ...}'

makes the inputs, runs once to compile, prints a line of JSON, and then answers every
line on its input with the seconds of one more step (loss and gradients of the student's
hidden states and head). Peak resident memory is that of the steps, in excess of what
the process held between the first and the second: inputs, libraries, compiled code.
"""

import contextlib
import ctypes
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

OURS = ("kdjax fused", "kdjax naive", "products alone")

Step = Callable[[], float]


class Inputs(NamedTuple):
    """Hidden states and head kernels [D, V], float32, and labels."""

    student_hidden: NDArray[np.float32]
    student_kernel: NDArray[np.float32]
    teacher_hidden: NDArray[np.float32]
    teacher_kernel: NDArray[np.float32]
    labels: NDArray[np.int32]


class Request(NamedTuple):
    """The implementation to run, its computation and its sizes."""

    name: str
    kind: str
    tokens: int
    student_width: int
    teacher_width: int
    vocabulary: int
    dtype: str = "float32"
    chunk_size: int | None = None  # None: the implementation's own choice


def make_inputs(request: Request) -> Inputs:
    """Returns the same inputs in every process."""
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> NDArray[np.float32]:
        return generator.standard_normal(shape, np.float32)

    n, v = request.tokens, request.vocabulary
    ds, dt = request.student_width, request.teacher_width
    return Inputs(
        normal(n, ds),
        normal(ds, v) * np.float32(ds**-0.5),
        normal(n, dt),
        normal(dt, v) * np.float32(2 * dt**-0.5),
        generator.integers(0, v, n, np.int32),
    )


def make_step(request: Request) -> tuple[Step, Callable[[], int | None]]:
    """Returns the step and a getter of the accelerator's peak memory in bytes."""
    inputs = make_inputs(request)
    if request.name in OURS:
        return _ours(request, inputs)
    from benchmarks import peers  # imports torch, which must not count for the others

    return peers.make_step(request, inputs)


def _ours(request: Request, inputs: Inputs) -> tuple[Step, Callable[[], int | None]]:
    import jax
    import jax.numpy as jnp

    from benchmarks.programs import loss_with_gradients

    implementation = request.name.split()[-1]
    function = jax.jit(
        loss_with_gradients(implementation, request.kind, request.chunk_size)
    )
    arrays = [jnp.asarray(each, request.dtype) for each in inputs[:4]]
    arrays += [jnp.asarray(inputs.labels), jnp.ones(request.tokens, jnp.float32)]
    device = jax.devices()[0]

    def step() -> float:
        loss, gradients = function(*arrays)
        jax.block_until_ready(gradients)
        return float(loss)

    def peak() -> int | None:
        return (device.memory_stats() or {}).get("peak_bytes_in_use")

    return step, peak


def _resident(field: str) -> int | None:
    """Returns VmRSS or VmHWM in bytes where the system reports it (Linux)."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return None


def _forget_peak() -> None:
    """Returns freed memory to the system and resets VmHWM to what is resident."""
    time.sleep(0.5)  # temporaries are freed after the results are ready
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _serve(request: Request) -> Iterator[dict[str, Any]]:
    step, accelerator_peak = make_step(request)
    loss = step()
    _forget_peak()
    before = _resident("VmRSS")
    yield {"loss": loss}
    while True:
        wall, processor = time.perf_counter(), time.process_time()
        step()
        seconds = time.perf_counter() - wall, time.process_time() - processor
        peak = _resident("VmHWM")
        yield {
            "wall_s": seconds[0],
            "cpu_s": seconds[1],
            "peak_bytes": None if before is None or peak is None else peak - before,
            "accelerator_peak_bytes": accelerator_peak(),
        }


if __name__ == "__main__":
    answers = _serve(Request(**json.loads(sys.argv[1])))
    print(json.dumps(next(answers)), flush=True)
    for _ in sys.stdin:
        print(json.dumps(next(answers)), flush=True)
