"""The distillation step: pure functions of (state, teacher, batch).

Teacher and student run in one jitted program. The teacher is an argument: neither
closed over, nor donated, nor differentiated.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from kdjax.config import DistillConfig
from kdjax.losses import (
    DIVERGENCES,
    LossSharding,
    linear_cross_entropy,
    linear_distillation,
    linear_metrics,
    next_token,
)
from kdjax.metrics import Mean
from kdjax.models import Model
from kdjax.schedules import Schedule, make_schedule
from kdjax.state import TrainState

BINS = 15  # of confidence; the usual number (Guo et al. 2017, arXiv:1706.04599)

Batch = dict[str, Array]
TrainStep = Callable[[TrainState, Any, Batch], tuple[TrainState, dict[str, Mean]]]


class Distillation(NamedTuple):
    """Soft targets: who gives them, how they are compared and what they weigh."""

    teacher: Model
    kind: str
    alpha: Schedule
    temperature: Schedule
    parameters: Mapping[str, Schedule] = {}


def make_distillation(
    teacher: Model, config: DistillConfig, steps: int
) -> Distillation:
    """Returns the soft targets that the config describes, over a run's steps."""
    schedules = {
        name: make_schedule(getattr(config, name), steps)
        for name in ("alpha", "temperature", *DIVERGENCES[config.kind].parameters)
    }
    return Distillation(
        teacher,
        config.kind,
        schedules.pop("alpha"),
        schedules.pop("temperature"),
        schedules,
    )


def make_train_step(
    student: Model,
    optimizer: optax.GradientTransformation,
    distillation: Distillation | None = None,
    *,
    micro_batches: int = 1,
    state_shardings: Any = None,
    loss_sharding: LossSharding | None = None,
    chunk_size: int | None = None,
) -> TrainStep:
    """Returns `step(state, teacher_params, batch) -> (state, metrics)`, jitted.

    The loss is the weighted mean over the tokens of the GLOBAL batch, whatever the
    micro-batches and the mesh. The state is donated. Where loss or gradient is not
    finite, parameters and optimiser stay as they were and `skipped` says so.

    Args:
        student: The model that learns.
        optimizer: Its optimiser.
        distillation: The soft targets; None trains on hard labels alone, and
            `teacher_params` is then None too.
        micro_batches: How many parts of the batch are gone through in turn, to save
            memory.
        state_shardings: Where the new state lives; None leaves it to the compiler.
        loss_sharding: How the loss is spread over the mesh; None for one device.
        chunk_size: How many tokens' logits a device holds at a time; None chooses by
            the memory they take.
    """
    spread = {"sharding": loss_sharding, "chunk_size": chunk_size}
    loss_fn = _make_loss(student, distillation, spread)

    def train_step(
        state: TrainState, teacher_params: Any, batch: Batch
    ) -> tuple[TrainState, dict[str, Mean]]:
        norm = jnp.maximum(_total_weight(batch), 1.0)  # all may be padding

        def loss(params: Any, part: Batch) -> tuple[Array, dict[str, Mean]]:
            total, metrics = loss_fn(params, teacher_params, part, state.step)
            metrics["loss"] = Mean(total, _total_weight(part))
            return total / norm, metrics

        def gradient(part: Batch) -> tuple[Any, dict[str, Mean]]:
            return jax.grad(loss, has_aux=True)(state.params, part)

        grads, metrics = _accumulate(gradient, batch, micro_batches)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"].total) & jnp.isfinite(grad_norm)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
        one = jnp.ones(())
        metrics["grad_norm"] = Mean(grad_norm, one)
        metrics["skipped"] = Mean(1.0 - finite, one)
        return TrainState(state.step + 1, params, opt_state), metrics

    shardings = None if state_shardings is None else (state_shardings, None)
    return jax.jit(train_step, donate_argnums=0, out_shardings=shardings)


def _make_loss(
    student: Model,
    distillation: Distillation | None,
    spread: Mapping[str, Any],
) -> Callable[[Any, Any, Batch, Array], tuple[Array, dict[str, Mean]]]:
    """Returns the weighted SUM of the loss over a batch's tokens, with its parts."""

    def hard_only(
        params: Any, teacher_params: None, batch: Batch, step: Array
    ) -> tuple[Array, dict[str, Mean]]:
        labels, weights = _labels(batch)
        hidden = student.hidden(params, batch["tokens"], batch["segments"])
        head = student.head(params)
        total, hard = linear_cross_entropy(hidden, head, labels, weights, **spread)
        return total, {"hard": Mean.of(hard, weights)}

    if distillation is None:
        return hard_only
    teacher, kind, alpha, temperature, parameters = distillation

    def mixed(
        params: Any, teacher_params: Any, batch: Batch, step: Array
    ) -> tuple[Array, dict[str, Mean]]:
        labels, weights = _labels(batch)
        frozen = jax.lax.stop_gradient(teacher_params)
        total, parts = linear_distillation(
            student.hidden(params, batch["tokens"], batch["segments"]),
            student.head(params),
            teacher.hidden(frozen, batch["tokens"], batch["segments"]),
            teacher.head(frozen),
            labels,
            weights,
            alpha=alpha(step),
            temperature=temperature(step),
            kind=kind,
            **spread,
            **{name: value(step) for name, value in parameters.items()},
        )
        return total, {
            "hard": Mean.of(parts.hard, weights),
            "soft": Mean.of(parts.soft, weights),
        }

    return mixed


def _labels(batch: Batch) -> tuple[Array, Array]:
    """Returns the labels and their weights."""
    return next_token(batch["tokens"], batch["segments"], batch.get("completion"))


def _total_weight(batch: Batch) -> Float[Array, ""]:
    """Returns how many tokens of the batch have a label."""
    return _labels(batch)[1].sum()


def _accumulate(gradient: Callable[[Batch], Any], batch: Batch, parts: int) -> Any:
    """Returns the sum of `gradient` over `parts` slices of the batch."""
    if parts == 1:
        return gradient(batch)

    # Strided slices, because contiguous ones would lie on a few devices only.
    def split(x: Array) -> Array:
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(part)), None

    slices = jax.tree.map(split, batch)
    first = jax.tree.map(lambda x: x[0], slices)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, first)
    )
    total, _ = jax.lax.scan(add, zeros, slices)
    return total


def make_eval_step(
    model: Model,
    teacher: Model | None = None,
    *,
    loss_sharding: LossSharding | None = None,
) -> Callable[[Any, Any, Batch], dict[str, Mean]]:
    """Returns `step(params, teacher_params, batch) -> metrics`, jitted.

    The metrics are those of `linear_metrics` but for "confidence" and "correct", which
    come as sums in each of `BINS` bins of confidence.
    """

    def eval_step(params: Any, teacher_params: Any, batch: Batch) -> dict[str, Mean]:
        labels, weights = _labels(batch)
        inputs = batch["tokens"], batch["segments"]
        taught: tuple[Any, ...] = ()
        if teacher is not None:
            hidden = teacher.hidden(teacher_params, *inputs)
            taught = hidden, teacher.head(teacher_params)
        values = linear_metrics(
            model.hidden(params, *inputs),
            model.head(params),
            labels,
            *taught,
            sharding=loss_sharding,
        )
        bins = _confidence_bins(
            values.pop("confidence"), values.pop("correct"), weights
        )
        return {k: Mean.of(value, weights) for k, value in values.items()} | bins

    return jax.jit(eval_step)


def _confidence_bins(
    confidence: Float[Array, "B T"], correct: Float[Array, "B T"], weights: Array
) -> dict[str, Mean]:
    """Returns confidence and accuracy of the most likely token by confidence bin."""
    index = jnp.minimum((confidence * BINS).astype(jnp.int32), BINS - 1)

    def by_bin(values: Array) -> Array:
        return jnp.zeros(BINS).at[index.ravel()].add(values.ravel())

    count = by_bin(weights)
    return {
        "bin_confidence": Mean(by_bin(confidence * weights), count),
        "bin_accuracy": Mean(by_bin(correct * weights), count),
    }
