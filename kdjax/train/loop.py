"""Training: a job is compiled once, and its program is run for each seed.

`prepare` compiles without running anything; `train` is the loop, the only place where
side effects come in sequence.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from kdjax.config.devices import micro_batches_of
from kdjax.config.schema import CheckpointConfig, Rules, TrainConfig
from kdjax.core.compilation import little_optimised, well_optimised
from kdjax.core.errors import UsageError
from kdjax.core.logging import say
from kdjax.core.mirrors import pull
from kdjax.core.stopping import after_the_step
from kdjax.losses import LossSharding
from kdjax.parallel.sharding import BATCH_AXES, abstract
from kdjax.results.measured import CurvePoint, Training
from kdjax.train.checkpoints import Checkpoints
from kdjax.train.learner import Frozen, Learner
from kdjax.train.meter import Meter, curve, summary
from kdjax.train.objective import Objective
from kdjax.train.optimizers import make_optimizer
from kdjax.train.position import START
from kdjax.train.profiling import Profiler
from kdjax.train.records import METRICS, read_metrics
from kdjax.train.saving import Saver
from kdjax.train.schedules import learning_rate
from kdjax.train.sources import Source
from kdjax.train.spikes import SpikeGuard
from kdjax.train.state import (
    TrainState,
    create_state,
    start_state,
    state_shardings,
)
from kdjax.train.step import make_train_step
from kdjax.train.task import Task


class Job(NamedTuple):
    """What is compiled: everything about a training except its seed.

    Attributes:
        learner: What learns.
        objective: What it minimises.
        task: Which labels a batch has.
        config: Steps, batch size and optimiser.
        rules: Sharding rules that take precedence over the default ones.
        mesh: The devices.
        frozen: Parameters that no step changes, by name, as shapes or arrays.
        batch: The shapes of a batch.
    """

    learner: Learner
    objective: Objective
    task: Task
    config: TrainConfig
    rules: Rules
    mesh: Mesh
    frozen: Mapping[str, Any]
    batch: Mapping[str, Any]


class Program(NamedTuple):
    """A compiled job.

    Attributes:
        job: What it was compiled for.
        shapes: The train state's shapes and shardings.
        create: `create(key) -> state`, with parameters drawn at random.
        start: `start(params) -> state`, with given parameters.
        step: The compiled step; it does not use the device before it is called.
    """

    job: Job
    shapes: TrainState
    create: Callable[[jax.Array], TrainState]
    start: Callable[[Any], TrainState]
    step: jax.stages.Compiled


class Run(NamedTuple):
    """One run of a program.

    Attributes:
        name: Shown on the progress line.
        directory: Where checkpoints and metrics go.
        seed: The seed of the initialisation.
        source: The source of its batches.
        frozen: Parameters that no step changes, by name.
        evaluate: From parameters to held-out metrics, the task's headline among them.
        evaluate_every: The number of steps between evaluations.
        flops: FLOPs of one step.
        first_params: Returns the initial parameters, which the run then owns; None:
            the learner's initialisation.
        extends: The steps of the shorter run that it continues; 0: it is new.
    """

    name: str
    directory: epath.Path
    seed: int
    source: Source
    frozen: Frozen
    evaluate: Callable[[Any], dict[str, float]]
    evaluate_every: int
    flops: float
    first_params: Callable[[], Any] | None = None
    extends: int = 0


class Result(NamedTuple):
    """What a run leaves behind."""

    params: Any
    curve: tuple[CurvePoint, ...]
    training: Training


def prepare(job: Job) -> Program:
    """Returns the job's program, compiled but not run."""
    optimizer = make_optimizer(job.config.optimizer, job.config.steps)
    create = partial(create_state, job.learner.init, optimizer)
    shapes = jax.eval_shape(create, jax.random.key(0))
    placed = state_shardings(shapes, job.mesh, job.rules)
    shapes = abstract(shapes, placed)
    rate = learning_rate(job.config.optimizer, job.config.steps)
    shards = math.prod(job.mesh.shape[axis] for axis in BATCH_AXES)
    step: Any = make_train_step(
        job.learner,
        optimizer,
        job.objective,
        job.task,
        micro_batches=micro_batches_of(job.config, shards),
        state_shardings=placed,
        loss_sharding=LossSharding(job.mesh),
        chunk_size=job.config.chunk_size or None,
        schedules={"learning_rate": rate, **job.objective.schedules},
    )
    return Program(
        job,
        shapes,
        jax.jit(create, out_shardings=placed, compiler_options=little_optimised()),
        jax.jit(partial(start_state, optimizer), out_shardings=placed),
        step.lower(shapes, job.frozen, job.batch).compile(
            well_optimised(job.mesh.devices.flat[0].platform)
        ),
    )


def train(
    program: Program,
    run: Run,
    checkpoints: CheckpointConfig,
    log_every: int,
    wandb: str = "",
    profile: str = "",
) -> Result:
    """Trains to the last step, from the newest good checkpoint if there is one.

    SIGTERM and the first Ctrl-C let the step in progress end, and save its state.

    Args:
        program: The compiled job.
        run: Its seed, batches and directory.
        checkpoints: When the state is saved, and what is kept.
        log_every: Steps between records of the training metrics.
        wandb: A Weights & Biases project that gets the metrics too; "": none.
        profile: The steps that are traced, as in the config; "": none.

    Raises:
        FloatingPointError: Loss or gradients stayed non-finite for several steps.
        OSError: The last checkpoint, or the metrics, could not be written.
        UsageError: The checkpoint of the run that it extends is gone, or all of its own
            are damaged.
        Preempted: There was a SIGTERM; Ctrl-C raises KeyboardInterrupt.
    """
    config = program.job.config
    guard = SpikeGuard(run.source, config.spike_guard, checkpoints.every, run.extends)
    profiler = Profiler(run.name, run.directory, profile)
    state = None
    with closing(guard):
        while state is None:
            state = _until_a_jump(
                program, run, guard, profiler, checkpoints, log_every, wandb
            )
    if jax.process_index():
        pull(run.directory / METRICS)  # which the first process has written
    records = read_metrics(run.directory)
    params = program.job.learner.export(state.params, run.frozen)
    training = dataclasses.replace(summary(records), flops=run.flops * config.steps)
    return Result(params, curve(records), training)


def _until_a_jump(
    program: Program,
    run: Run,
    guard: SpikeGuard,
    profiler: Profiler,
    checkpoints: CheckpointConfig,
    log_every: int,
    wandb: str,
) -> TrainState | None:
    """Does what `train` says, and returns the state at the end.

    None: the loss jumped; called again, it resumes before that.
    """
    steps, headline = program.job.config.steps, program.job.task.headline
    saved = Checkpoints(run.directory, checkpoints, guard.needs)
    start = saved.latest(guard.allows) or 0
    if start < run.extends:
        raise UsageError(
            f"{run.directory}/checkpoints has no checkpoint of step {run.extends:,}, "
            "from which training would continue; choose another --workdir"
        )
    begun = START
    if guard.jump is not None:
        say(f"note: {run.name}: the loss jumped at step {guard.jump:,}")
        guard.rewind(start)
    if start:
        state, begun = saved.restore(start, program.shapes)
        guard.restore(begun.source)
        say(f"{run.name}: resuming at step {start:,} of {steps:,}")
    elif run.first_params is not None:
        state = program.start(run.first_params())
    else:
        state = program.create(jax.random.key(run.seed))
    saved.remove_after(start)
    meter = Meter(
        run.name,
        run.directory,
        start=start,
        steps=steps,
        tokens=program.job.batch["tokens"].size,
        flops=run.flops,
        # At checkpoints too, so that a resumed run loses no records.
        every=(log_every, checkpoints.every),
        pauses=(run.evaluate_every, checkpoints.every),
        wandb=wandb,
        begun=begun,
        rows=guard.describe,
        watch=guard.see,
    )
    if rows := guard.leave_out(start, state):
        say(f"{run.name}: {len(rows):,} rows are left out after step {start:,}")
        meter.rewound(start, rows)
    saver = Saver(saved, checkpoints, steps, meter, guard, program.job.mesh)
    # ORDER MATTERS: evaluate(n), save(n), and only then draw batch n + 1. A resumed run
    # then sees exactly what this one would have.
    with (
        after_the_step() as stop,
        closing(meter),
        closing(saved),
        closing(profiler),
        jax.transfer_guard("disallow"),
    ):
        if not begun.is_evaluated:
            meter.held_out(start, run.evaluate(state.params))
            meter.resume(is_planned=False)
        for step in range(start + 1, steps + 1):
            profiler.begin(step, state)
            batch = guard.next(step, state)
            state, metrics = program.step(state, run.frozen, batch)
            profiler.end(step, state)
            meter.record(step, metrics)
            is_save = saver.is_due(step, stop)
            is_planned = step == steps or not all(
                step % n for n in (run.evaluate_every, checkpoints.every)
            )
            if is_save or is_planned:
                meter.catch_up()  # so that the pause does not count as training time
            if guard.jump is not None:
                return None
            if is_save or is_planned:
                loss = None
                is_evaluated = is_planned and not stop.is_agreed  # or when it resumes
                if is_evaluated:
                    held_out = run.evaluate(state.params)
                    meter.held_out(step, held_out)
                    loss = held_out[headline]
                if is_save:
                    is_complete = is_evaluated or not is_planned
                    saver.save(step, state, loss, is_evaluated=is_complete)
                meter.resume(is_planned=is_planned)
            if stop.is_agreed:
                say(f"{run.name}: stopping after step {step:,}")
                break
    return state
