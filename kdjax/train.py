"""The loop of one training run: the only place where side effects come in sequence."""

import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from kdjax import checkpoint as checkpoints
from kdjax.config import Config, Rules, TrainConfig
from kdjax.data import Prepared, held_out_batches, training_batches
from kdjax.evaluate import evaluate
from kdjax.flops import forward_flops, peak_flops
from kdjax.metrics import Mean
from kdjax.models import Model
from kdjax.optimizers import make_optimizer
from kdjax.sharding import data_shard, shardings, to_devices
from kdjax.state import create_state
from kdjax.step import Batch, Distillation, make_eval_step, make_train_step
from kdjax.writers import MetricWriter, Progress, read_metrics, say

_MAX_SKIPPED = 10  # non-finite steps in a row
_RECENT = 20  # steps whose median time makes the speed shown


class Job(NamedTuple):
    """What one run trains, and on what.

    Attributes:
        name: For the progress line.
        directory: Where checkpoints and metrics go.
        model: The model that learns.
        config: Steps, batch, optimiser.
        rules: Sharding rules before the default ones.
        seed: Of the initialisation and of the order of the data.
        distillation: The soft targets; None for hard labels only.
        teacher_params: None without distillation.
    """

    name: str
    directory: epath.Path
    model: Model
    config: TrainConfig
    rules: Rules
    seed: int
    distillation: Distillation | None = None
    teacher_params: Any = None


class Result(NamedTuple):
    """What a run leaves behind."""

    params: Any
    curve: list[dict[str, Any]]
    training: dict[str, Any]


def train(job: Job, config: Config, prepared: Prepared, mesh: Mesh) -> Result:
    """Trains to the last step, from the newest checkpoint if there is one.

    Raises:
        FloatingPointError: Loss or gradients stayed non-finite for several steps.
    """
    optimizer = make_optimizer(job.config.optimizer, job.config.steps)
    create = partial(create_state, job.model, optimizer)
    key = jax.random.key(job.seed)
    shapes = jax.eval_shape(create, key)
    placed = shardings(shapes, mesh, job.rules)
    shard = data_shard(mesh, job.config.batch_size)
    batches = training_batches(
        prepared.splits["train"],
        batch_size=job.config.batch_size,
        seed=job.seed,
        fraction=job.config.data_fraction,
        shard=shard,
    )
    saved = checkpoints.Checkpoints(job.directory / "checkpoints", config.checkpoint)
    start = saved.latest() or 0
    if start:
        like = checkpoints.abstract(shapes, placed)
        state, position = saved.restore(start, like)
        batches.set_state(position)
        say(f"{job.name}: resuming at step {start:,} of {job.config.steps:,}")
    else:
        state = jax.jit(create, out_shardings=placed)(key)
    step_fn = make_train_step(
        job.model,
        optimizer,
        job.distillation,
        micro_batches=job.config.micro_batches,
        state_shardings=placed,
    )
    held_out = HeldOut(job.model, config, prepared, mesh, job.config.batch_size)
    meter = Meter(job, config, mesh, start)
    last = job.config.steps
    # ORDER MATTERS: evaluate(n), save(n), and only then draw batch n + 1. A resumed run
    # then sees exactly what this one would have seen.
    with jax.transfer_guard("disallow"):
        for step in range(start + 1, last + 1):
            batch = to_devices(next(batches), mesh, shard)
            state, metrics = step_fn(state, job.teacher_params, batch)
            meter.record(step, metrics)
            is_save = step == last or not step % config.checkpoint.every
            if is_save or not step % config.evaluate.every:
                meter.catch_up()  # so that evaluating does not count as training
                loss = held_out.loss(state.params)
                meter.held_out(step, loss)
                if is_save:
                    saved.save(step, state, batches.get_state(), loss["cross_entropy"])
    training = meter.close()
    saved.close()
    return Result(state.params, _curve(job.directory), training)


class HeldOut:
    """The cheap held-out evaluation while training: cross-entropy on some rows."""

    def __init__(
        self, model: Model, config: Config, prepared: Prepared, mesh: Mesh, size: int
    ) -> None:
        self._step = make_eval_step(model)
        self._batches = partial(
            device_batches, prepared, "validation", mesh, size, config.evaluate.rows
        )
        self._bits_per_byte = partial(prepared.bits_per_byte, split="validation")

    def loss(self, params: Any) -> dict[str, float]:
        """Returns cross-entropy in nats/token and bits/byte."""
        nats = evaluate(self._step, params, None, self._batches())["cross_entropy"]
        return {"cross_entropy": nats, "bits_per_byte": self._bits_per_byte(nats)}


def device_batches(
    prepared: Prepared, split: str, mesh: Mesh, size: int, limit: int | None = None
) -> Iterator[Batch]:
    """Yields a held-out split on the mesh, in batches of `size` rows."""
    shard = data_shard(mesh, size)
    rows = held_out_batches(
        prepared.splits[split], batch_size=size, limit=limit, shard=shard
    )
    return (to_devices(batch, mesh, shard) for batch in rows)


class Meter:
    """Reads the metrics of step n - 1 while the device works on step n."""

    def __init__(self, job: Job, config: Config, mesh: Mesh, start: int) -> None:
        is_first = jax.process_index() == 0
        self._log_every, self._last = config.log_every, job.config.steps
        self._tokens = job.config.batch_size * config.data.length
        self._flops = self._tokens * _flops_per_token(job, config.data.length)
        self._peak = peak_flops()
        self._writer = MetricWriter(job.directory, start=start, enabled=is_first)
        self._progress = Progress(
            job.name, job.config.steps, start=start, unit="step", enabled=is_first
        )
        self._pending: tuple[int, dict[str, Mean]] | None = None
        self._durations: list[float] = []
        self._skipped = self._skipped_in_a_row = 0
        self._started = self._read = time.perf_counter()

    def record(self, step: int, metrics: dict[str, Mean]) -> None:
        """Takes the metrics of a step just dispatched; reads those before them."""
        self.catch_up()
        self._pending = step, metrics

    def held_out(self, step: int, loss: dict[str, float]) -> None:
        """Writes a held-out evaluation and starts the clock anew."""
        self._writer.write(step, {f"eval/{name}": v for name, v in loss.items()})
        self._read = time.perf_counter()

    def close(self) -> dict[str, Any]:
        """Returns the summary of the run."""
        self.catch_up()
        self._writer.close()
        self._progress.__exit__(None, None, None)
        # The first step compiles and the second waits for it.
        usual = statistics.median(self._durations[2:] or self._durations or [0.0])
        return {
            "steps": self._last,
            "seconds": time.perf_counter() - self._started,
            "tokens_per_second": self._tokens / usual if usual else None,
            "mfu": self._mfu(usual),
            "skipped_steps": self._skipped,
        }

    def catch_up(self) -> None:
        """Reads the pending metrics, waiting for their step."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {k: mean.compute() for k, mean in jax.device_get(metrics).items()}
        now = time.perf_counter()
        self._durations.append(now - self._read)
        self._read = now
        self._count_skipped(step, values["skipped"])
        usual = statistics.median(self._durations[-_RECENT:])
        speed, mfu = self._tokens / usual, self._mfu(usual)
        note = f"loss {values['loss']:.3f}, {speed:,.0f} tokens/s"
        self._progress.update(1, note + (f", MFU {mfu:.0%}" if mfu else ""))
        if step == self._last or not step % self._log_every:
            scalars = {f"train/{name}": value for name, value in values.items()}
            self._writer.write(step, {**scalars, "perf/tokens_per_second": speed})

    def _mfu(self, seconds: float) -> float | None:
        if self._peak is None or not seconds:
            return None
        return self._flops / seconds / self._peak

    def _count_skipped(self, step: int, skipped: float) -> None:
        self._skipped += int(skipped)
        self._skipped_in_a_row = (self._skipped_in_a_row + 1) * int(skipped)
        if self._skipped_in_a_row >= _MAX_SKIPPED:
            raise FloatingPointError(
                f"loss or gradients were not finite for {_MAX_SKIPPED} steps up to "
                f"step {step}; try a lower learning rate"
            )


def _flops_per_token(job: Job, length: int) -> float:
    """Returns 3 forward passes of the student (6P) and one of the teacher (2P)."""
    total = 3 * forward_flops(job.model.config, length)
    if job.distillation is not None:
        total += forward_flops(job.distillation.teacher.config, length)
    return total


def _curve(directory: epath.Path) -> list[dict[str, Any]]:
    """Returns the held-out points of the whole run, earlier starts included."""
    prefix = "eval/"
    return [
        {"step": r["step"]}
        | {k.removeprefix(prefix): v for k, v in r.items() if k.startswith(prefix)}
        for r in read_metrics(directory)
        if f"{prefix}bits_per_byte" in r
    ]
