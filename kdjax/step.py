"""The distillation step: pure functions of (state, teacher, batch).

Teacher and student run in one jitted program. The teacher is an argument: neither
closed over, nor donated, nor differentiated.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from kdjax.losses import (
    common_vocabulary,
    divergence,
    hard_loss,
    linear_cross_entropy,
    linear_distillation,
    next_token,
)
from kdjax.metrics import Mean
from kdjax.models import Model
from kdjax.schedules import Schedule
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


def make_train_step(
    student: Model,
    optimizer: optax.GradientTransformation,
    distillation: Distillation | None = None,
    *,
    micro_batches: int = 1,
    state_shardings: Any = None,
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
    """
    loss_fn = _make_loss(student, distillation)

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
    student: Model, distillation: Distillation | None
) -> Callable[[Any, Any, Batch, Array], tuple[Array, dict[str, Mean]]]:
    """Returns the weighted SUM of the loss over a batch's tokens, with its parts."""

    def hard_only(
        params: Any, teacher_params: None, batch: Batch, step: Array
    ) -> tuple[Array, dict[str, Mean]]:
        labels, weights = next_token(batch["tokens"], batch["segments"])
        hidden = student.hidden(params, batch["tokens"], batch["segments"])
        head = student.head(params)
        total, hard = linear_cross_entropy(hidden, head, labels, weights)
        return total, {"hard": Mean.of(hard, weights)}

    if distillation is None:
        return hard_only
    teacher, kind, alpha, temperature = distillation

    def mixed(
        params: Any, teacher_params: Any, batch: Batch, step: Array
    ) -> tuple[Array, dict[str, Mean]]:
        labels, weights = next_token(batch["tokens"], batch["segments"])
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
        )
        return total, {
            "hard": Mean.of(parts.hard, weights),
            "soft": Mean.of(parts.soft, weights),
        }

    return mixed


def _total_weight(batch: Batch) -> Float[Array, ""]:
    """Returns how many tokens of the batch have a label."""
    _, weights = next_token(batch["tokens"], batch["segments"])
    return weights.sum()


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
    model: Model, teacher: Model | None = None
) -> Callable[[Any, Any, Batch], dict[str, Mean]]:
    """Returns `step(params, teacher_params, batch) -> metrics`, jitted.

    The metrics are the hard-label cross-entropy ("cross_entropy"), the confidence and
    accuracy in each of `BINS` bins of confidence, and, with a teacher, the divergences
    both ways, the agreement of the most likely token, and the acceptance rate of
    speculative decoding, E[sum_v min(p_v, q_v)] (arXiv:2211.17192).
    """

    def eval_step(params: Any, teacher_params: Any, batch: Batch) -> dict[str, Mean]:
        labels, weights = next_token(batch["tokens"], batch["segments"])
        inputs = batch["tokens"], batch["segments"]
        logits = model.logits(params, *inputs)
        metrics = {"cross_entropy": Mean.of(hard_loss(logits, labels), weights)}
        metrics |= _confidence_bins(logits, labels, weights)
        if teacher is None:
            return metrics
        student_logits, teacher_logits = common_vocabulary(
            logits,
            model.head(params),
            teacher.logits(teacher_params, *inputs),
            teacher.head(teacher_params),
        )
        compare = partial(divergence, student_logits, teacher_logits)
        agree = student_logits.argmax(-1) == teacher_logits.argmax(-1)
        return metrics | {
            "forward_kl": Mean.of(compare(kind="forward_kl"), weights),
            "reverse_kl": Mean.of(compare(kind="reverse_kl"), weights),
            "agreement": Mean.of(agree.astype(jnp.float32), weights),
            "acceptance": Mean.of(1.0 - compare(kind="total_variation"), weights),
        }

    return jax.jit(eval_step)


def _confidence_bins(
    logits: Float[Array, "B T V"], labels: Array, weights: Array
) -> dict[str, Mean]:
    """Returns confidence and accuracy of the most likely token by confidence bin."""
    confidence = jax.nn.softmax(logits).max(-1)
    correct = (logits.argmax(-1) == labels).astype(jnp.float32)
    index = jnp.minimum((confidence * BINS).astype(jnp.int32), BINS - 1)

    def by_bin(values: Array) -> Array:
        return jnp.zeros(BINS).at[index.ravel()].add(values.ravel())

    count = by_bin(weights)
    return {
        "bin_confidence": Mean(by_bin(confidence * weights), count),
        "bin_accuracy": Mean(by_bin(correct * weights), count),
    }
