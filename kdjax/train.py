"""The loop of one training run: the only place where side effects come in sequence."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from kdjax import checkpoint
from kdjax.checkpoints.native import abstract
from kdjax.config import Config, Rules, TrainConfig
from kdjax.data import Prepared, held_out_batches, training_batches
from kdjax.evaluate import evaluate
from kdjax.flops import forward_flops, peak_flops
from kdjax.losses import LossSharding
from kdjax.metrics import Mean
from kdjax.models import Model
from kdjax.optimizers import make_optimizer
from kdjax.sharding import data_shard, shardings, to_devices
from kdjax.state import create_state, start_state
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
        first_params: Gives the parameters to start from, which are then the run's own;
            None: the model's initialisation.
    """

    name: str
    directory: epath.Path
    model: Model
    config: TrainConfig
    rules: Rules
    seed: int
    distillation: Distillation | None = None
    teacher_params: Any = None
    first_params: Callable[[], Any] | None = None


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
    shard = data_shard(mesh, job.config.batch_size)
    batches = training_batches(
        prepared.splits["train"],
        batch_size=job.config.batch_size,
        seed=job.seed,
        fraction=job.config.data_fraction,
        shard=shard,
    )
    saved = checkpoint.Checkpoints(job.directory / "checkpoints", config.checkpoint)
    start = saved.latest() or 0
    create = partial(create_state, job.model, optimizer)
    shapes = jax.eval_shape(create, jax.random.key(job.seed))
    placed = shardings(shapes, mesh, job.rules)
    if start:
        state, position = saved.restore(start, abstract(shapes, placed))
        batches.set_state(position)
        say(f"{job.name}: resuming at step {start:,} of {job.config.steps:,}")
    elif job.first_params is not None:
        begin = partial(start_state, optimizer)
        state = jax.jit(begin, out_shardings=placed)(job.first_params())
    else:
        state = jax.jit(create, out_shardings=placed)(jax.random.key(job.seed))
    step_fn = make_train_step(
        job.model,
        optimizer,
        job.distillation,
        micro_batches=job.config.micro_batches,
        state_shardings=placed,
        loss_sharding=LossSharding(mesh),
        chunk_size=job.config.chunk_size or None,
    )
    held_out = HeldOut(job.model, config, prepared, mesh)
    meter = Meter(job, config, start)
    # ORDER MATTERS: evaluate(n), save(n), and only then draw batch n + 1. A resumed run
    # then sees exactly what this one would have seen.
    with closing(meter), closing(saved), jax.transfer_guard("disallow"):
        for step in range(start + 1, job.config.steps + 1):
            batch = to_devices(next(batches), mesh, shard)
            state, metrics = step_fn(state, job.teacher_params, batch)
            meter.record(step, metrics)
            is_save = step == job.config.steps or not step % config.checkpoint.every
            if is_save or not step % config.evaluate.every:
                meter.catch_up()  # so that evaluating does not count as training
                loss = held_out.loss(state.params)
                meter.held_out(step, loss)
                if is_save:
                    saved.save(step, state, batches.get_state(), loss["cross_entropy"])
    records = read_metrics(job.directory)
    return Result(state.params, _curve(records), _summary(records))


class HeldOut:
    """The cheap held-out evaluation while training: cross-entropy on some rows."""

    def __init__(
        self, model: Model, config: Config, prepared: Prepared, mesh: Mesh
    ) -> None:
        self._step = make_eval_step(model, loss_sharding=LossSharding(mesh))
        rows, size = config.evaluate.rows, config.evaluate.batch_size
        self._batches = partial(
            device_batches, prepared, "validation", mesh, size, rows
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

    def __init__(self, job: Job, config: Config, start: int) -> None:
        is_first = jax.process_index() == 0
        # At checkpoints too, so that a resumed run has missed nothing.
        self._record_every = config.log_every, config.checkpoint.every
        self._last = job.config.steps
        self._tokens = job.config.batch_size * config.data.length
        self._flops = self._tokens * _flops_per_token(job, config.data.length)
        self._peak = peak_flops()
        self._writer = MetricWriter(job.directory, start=start, enabled=is_first)
        self._progress = Progress(
            job.name, job.config.steps, start=start, unit="step", enabled=is_first
        )
        self._pending: tuple[int, dict[str, Mean]] | None = None
        self._durations: deque[float] = deque(maxlen=_RECENT)
        self._skipped = self._skipped_in_a_row = 0
        self._read = time.perf_counter()

    def record(self, step: int, metrics: dict[str, Mean]) -> None:
        """Takes the metrics of a step just dispatched; reads those before them."""
        self.catch_up()
        self._pending = step, metrics

    def held_out(self, step: int, loss: dict[str, float]) -> None:
        """Writes a held-out evaluation and starts the clock anew."""
        self._writer.write(step, {f"eval/{name}": v for name, v in loss.items()})
        self._read = time.perf_counter()

    def close(self) -> None:
        """Reads the last step's metrics and closes the files."""
        self.catch_up()
        self._writer.close()
        self._progress.close()

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
        usual = statistics.median(self._durations)
        perf = {"perf/tokens_per_second": self._tokens / usual}
        note = f"loss {values['loss']:.3f}, {self._tokens / usual:,.0f} tokens/s"
        if self._peak is not None:
            perf["perf/mfu"] = self._flops / usual / self._peak
            note += f", MFU {perf['perf/mfu']:.0%}"
        self._progress.update(1, note)
        if step == self._last or not all(step % n for n in self._record_every):
            scalars = {f"train/{name}": value for name, value in values.items()}
            scalars["train/skipped"] = self._skipped  # since the last record
            self._skipped = 0
            self._writer.write(step, {**scalars, **perf})

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


def _summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns speed and skipped steps of the whole run, earlier starts included."""

    def usual(name: str) -> float | None:
        values = [record[name] for record in records if name in record]
        return statistics.median(values) if values else None

    return {
        "tokens_per_second": usual("perf/tokens_per_second"),
        "mfu": usual("perf/mfu"),
        "skipped_steps": sum(int(r.get("train/skipped", 0)) for r in records),
    }


def _curve(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the held-out points of the whole run, earlier starts included."""
    prefix = "eval/"
    return [
        {"step": r["step"]}
        | {k.removeprefix(prefix): v for k, v in r.items() if k.startswith(prefix)}
        for r in records
        if f"{prefix}bits_per_byte" in r
    ]
