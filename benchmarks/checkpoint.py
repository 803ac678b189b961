"""What checkpoints cost: the loop, the disk, and the time from a kill to the next step.

    python -m benchmarks.checkpoint

saves and restores a train state of `--megabytes` in rounds, beside a copy of the same
bytes that is made durable too. Training waits while the state is copied out of it: that
is what `blocked` counts. The rest is written while it goes on, and slows it down where
it needs the same processor. Then a training with this state is killed and started
again. Where other work shares the processor, read the CPU-seconds, which it changes
little, and the shares, not the GB/s.
"""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from etils import epath
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import common
from kdjax.config import CheckpointConfig, MeshConfig, TrainConfig
from kdjax.core.files import flush
from kdjax.core.metrics import Mean
from kdjax.parallel.sharding import abstract, make_mesh
from kdjax.train import loop, manifests
from kdjax.train.checkpoints import Checkpoints
from kdjax.train.learner import Learner
from kdjax.train.loop import Job, Program, Run
from kdjax.train.newest import latest_step
from kdjax.train.position import Position
from kdjax.train.sources import Rows, batch_shapes
from kdjax.train.state import TrainState
from kdjax.train.task import Task

_MEGABYTES = flags.DEFINE_integer("megabytes", 200, "Size of the train state.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Saves, copies and restores.")
_PLACE = flags.DEFINE_string("place", "", "Where it is written; default: a new folder.")

BLOCKED = 0.02  # of the time, with one save a minute
MANIFEST = 0.2  # of the save
_ARRAYS = 12  # of parameters; Adam has as many for each of its two moments


def main(argv: list[str]) -> None:
    """Runs the benchmark, or, given a directory, a training in it to be killed."""
    if argv[1:]:
        train(**json.loads(argv[1]))
        return
    with tempfile.TemporaryDirectory(dir=_PLACE.value or None) as place:
        found = measure(pathlib.Path(place), _MEGABYTES.value, _ROUNDS.value)
        found |= restart(pathlib.Path(place) / "killed", _MEGABYTES.value)
    common.table(
        f"Checkpoints of {found['GB']:.3f} GB",
        ("what", "figure"),
        [list(pair) for pair in found.items()],
    )
    result = {
        "versions": common.versions(["orbax-checkpoint", "jax", "numpy"]),
        "load average": [round(load, 1) for load in os.getloadavg()],
    }
    common.save("checkpoint", result | found, show=False)


def make_state(megabytes: float) -> TrainState:
    """Returns a train state of so many megabytes, of random numbers."""
    return jax.jit(partial(_create, megabytes))(jax.random.key(0))


def _create(megabytes: float, key: jax.Array) -> TrainState:
    rows = max(1, round(megabytes * 1e6 / 4 / 3 / _ARRAYS / 1024))
    params, first, second = (
        {
            f"layer_{n}": jax.random.normal(each, (rows, 1024))
            for n, each in enumerate(jax.random.split(part, _ARRAYS))
        }
        for part in jax.random.split(key, 3)
    )
    return TrainState(jnp.zeros((), jnp.int32), params, (first, second))


def measure(place: pathlib.Path, megabytes: float, rounds: int) -> dict[str, Any]:
    """Returns what a save, a restore and a plain copy take, medians over rounds."""
    state = jax.block_until_ready(make_state(megabytes))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e9
    like = abstract(state, jax.tree.map(lambda leaf: leaf.sharding, state))
    times: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}

    def timed(name: str, act: Callable[[], Any]) -> Any:
        began, used = time.perf_counter(), time.process_time()
        result = act()
        times.setdefault(name, []).append(time.perf_counter() - began)
        processor.setdefault(name, []).append(time.process_time() - used)
        return result

    def sealed(*arguments: Any) -> None:
        timed("manifest", lambda: seal(*arguments))

    seal = manifests.seal
    with mock.patch.object(manifests, "seal", sealed):
        for number in range(1, rounds + 1):
            run = epath.Path(place / str(number))
            saved = Checkpoints(run, CheckpointConfig())

            begin = partial(saved.save, 1, state, Position({}), None, lambda: None)

            def save(begin: Callable[[], None], saved: Checkpoints) -> None:
                timed("blocked", begin)
                saved.close()

            timed("save", partial(save, begin, saved))
            timed("verify", partial(latest_step, run))
            saved = Checkpoints(run, CheckpointConfig())
            timed("restore", partial(_restore, saved, like))
            saved.close()
            timed("copy", partial(_copy, run, place / "copy"))
            run.rmtree()
    usual = {name: statistics.median(values) for name, values in times.items()}
    cpu = {name: statistics.median(values) for name, values in processor.items()}
    blocked, share = usual["blocked"] / 60, usual["manifest"] / usual["save"]
    return {
        "GB": size,
        **{f"{name}, seconds": round(value, 4) for name, value in usual.items()},
        **{f"{name}, CPU-seconds": round(value, 4) for name, value in cpu.items()},
        "save GB/s": round(size / usual["save"], 3),
        "verify and restore GB/s": round(
            size / (usual["verify"] + usual["restore"]), 3
        ),
        "copy GB/s": round(size / usual["copy"], 3),
        "blocked at one save a minute": f"{blocked:.2%}, "
        f"{common.verdict(blocked, BLOCKED)}",
        "manifest of the save": f"{share:.1%}, {common.verdict(share, MANIFEST)}",
    }


def _restore(saved: Checkpoints, like: TrainState) -> None:
    jax.block_until_ready(saved.restore(1, like)[0])


def _copy(directory: epath.Path, place: pathlib.Path) -> None:
    """Writes the files of a directory into one, and waits for the disk."""
    with place.open("wb") as file:
        for path in sorted(pathlib.Path(directory).rglob("*")):
            if path.is_file():
                file.write(path.read_bytes())
    flush(epath.Path(place))
    place.unlink()


def restart(place: pathlib.Path, megabytes: float) -> dict[str, float]:
    """Returns the seconds from a kill to the first step after it, and of what."""
    request = json.dumps({"place": str(place), "megabytes": megabytes})
    command = [sys.executable, "-m", "benchmarks.checkpoint", request]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not latest_step(epath.Path(place)):
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    killed = time.time()
    first.communicate()
    again = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert again.stdout is not None
    began, stepped = (float(again.stdout.readline()) for _ in range(2))
    again.kill()
    again.communicate()
    return {
        "kill to the first step, seconds": round(stepped - killed, 2),
        "of it to import, seconds": round(began - killed, 2),
    }


def train(place: str, megabytes: float) -> None:
    """Trains until it is killed; prints the time before it begins and of one step."""
    print(time.time(), flush=True)
    mesh = make_mesh(MeshConfig())
    create = partial(_create, megabytes)
    shapes = jax.eval_shape(create, jax.random.key(0))
    placed = jax.tree.map(lambda _: NamedSharding(mesh, P()), shapes)

    def step(state: TrainState, frozen: Any, batch: Any) -> Any:
        one = jnp.ones(())
        seen = batch["tokens"].astype(jnp.float32).mean()
        params = jax.tree.map(lambda x: 0.999 * x + 1e-6 * seen, state.params)
        metrics = {"loss": Mean(seen, one), "skipped": Mean(0 * seen, one)}
        return TrainState(state.step + 1, params, state.opt_state), metrics

    rows = [{"tokens": np.full(64, row, np.int32)} for row in range(64)]
    config = TrainConfig(steps=100_000, batch_size=8)
    unused: Any = None  # by a step that is given
    job = Job(
        learner=Learner(unused, unused, unused, lambda params, frozen: params),
        objective=unused,
        task=Task(unused, "cross_entropy", unused),
        config=config,
        rules=(),
        mesh=mesh,
        frozen={},
        batch=batch_shapes(rows, config.batch_size, mesh),
    )
    compiled = jax.jit(step, donate_argnums=0, out_shardings=(placed, None))
    started = jax.jit(create, out_shardings=placed)
    telling: Any = _Telling(compiled)
    program = Program(job, abstract(shapes, placed), started, unused, telling)
    run = Run(
        name="checkpoint",
        directory=epath.Path(place),
        seed=0,
        source=Rows(rows, config, 0, mesh),
        frozen={},
        evaluate=lambda params: {"cross_entropy": 0.0, "bits_per_byte": 0.0},
        evaluate_every=1000,
        flops=1.0,
    )
    loop.train(program, run, CheckpointConfig(every=10), 10)


class _Telling:
    """A step that prints when the first one has been taken."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self._step, self._is_told = step, False

    def __call__(self, *arguments: Any) -> Any:
        result = jax.block_until_ready(self._step(*arguments))
        if not self._is_told:
            print(time.time(), flush=True)
            self._is_told = True
        return result


if __name__ == "__main__":
    app.run(main)
