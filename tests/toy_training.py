"""A training whose step is one line, to be stopped, damaged and resumed in no time."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kdjax.config import CheckpointConfig, MeshConfig, TrainConfig
from kdjax.core.metrics import Mean
from kdjax.parallel.sharding import abstract, make_mesh
from kdjax.train.learner import Learner
from kdjax.train.loop import Job, Program, Run, train
from kdjax.train.records import read_metrics
from kdjax.train.sources import Rows, batch_shapes
from kdjax.train.state import TrainState
from kdjax.train.task import Task

STEPS = 4
EVERY_TWO = CheckpointConfig(every=2)
CONFIG = TrainConfig(steps=STEPS, batch_size=4)
ROWS = [{"tokens": np.full(6, row, np.int32)} for row in range(24)]


def make_program(steps=STEPS, split=()):
    """Returns a program of momentum descent, on gradients to which `push` is added.

    Args:
        steps: Its steps.
        split: The axes of the mesh that its parameters are split along.
    """
    mesh = make_mesh(MeshConfig(data=min(4, jax.device_count()), tensor=-1))

    def step(state, frozen, batch):
        seen = batch["tokens"].astype(jnp.float32).mean()
        gradient = jnp.sin(state.params["w"] + seen) + frozen["push"]
        finite = jnp.isfinite(gradient).all()
        momentum = 0.9 * state.opt_state["m"] + gradient
        new = {"w": state.params["w"] - 0.1 * momentum}, {"m": momentum}
        old = state.params, state.opt_state
        kept = jax.tree.map(lambda x, y: jnp.where(finite, x, y), new, old)
        values = {"loss": gradient.sum(), "skipped": 1.0 - finite}
        metrics = {name: Mean(value, jnp.ones(())) for name, value in values.items()}
        return TrainState(state.step + 1, *kept), metrics

    def create(key):
        w = jax.random.normal(key, (16,))
        return TrainState(jnp.zeros((), jnp.int32), {"w": w}, {"m": jnp.zeros(16)})

    shapes = jax.eval_shape(create, jax.random.key(0))
    placed = jax.tree.map(
        lambda x: NamedSharding(mesh, P(*split) if x.ndim else P()), shapes
    )
    job = Job(
        learner=Learner(None, None, None, lambda params, frozen: params),
        objective=None,
        task=Task(None, "cross_entropy", None),
        config=dataclasses.replace(CONFIG, steps=steps),
        rules=(),
        mesh=mesh,
        frozen={},
        batch=batch_shapes(ROWS, CONFIG.batch_size, mesh),
    )
    return Program(
        job,
        abstract(shapes, placed),
        jax.jit(create, out_shardings=placed),
        None,
        jax.jit(step, out_shardings=(placed, None)),
    )


def make_run(program, directory, source=None):
    """Returns a run of the program, and makes its directory."""
    return Run(
        name="toy",
        directory=epath.Path(directory),
        seed=0,
        source=source or Rows(ROWS, CONFIG, 0, program.job.mesh),
        frozen=frozen(program, 0.0),
        evaluate=evaluate,
        evaluate_every=2,
        flops=1.0,
    )


def frozen(program, push):
    """Returns what is added to the gradient, on the devices."""
    place = NamedSharding(program.job.mesh, P())
    return {"push": jax.device_put(np.float32(push), place)}


def evaluate(params):
    value = float(jax.device_get(params["w"]).sum())
    return {"cross_entropy": value, "bits_per_byte": value}


def finish(program, directory, config=EVERY_TWO):
    """Trains to the end, and returns the parameters and all metrics but the speed."""
    result = train(program, make_run(program, directory), config, 1)
    return jax.device_get(result.params)["w"].tolist(), metrics(directory)


def metrics(directory):
    """Returns what a run has recorded, but for its speed."""
    return [
        {k: v for k, v in record.items() if not k.startswith("perf/")}
        for record in read_metrics(epath.Path(directory))
    ]


class Acting(Rows):
    """Batches whose reader does something before some steps."""

    def __init__(self, program, acts):
        super().__init__(ROWS, CONFIG, 0, program.job.mesh)
        self._acts = acts

    def next(self, step, state):
        self._acts.get(step, lambda: None)()
        return super().next(step, state)


def stop_at(step, program, directory, numbers=(signal.SIGTERM,), config=EVERY_TWO):
    """Begins a run that signals end at a step."""

    def stop():
        for number in numbers:
            os.kill(os.getpid(), number)

    source = Acting(program, {step: stop})
    train(program, make_run(program, directory, source), config, 1)
