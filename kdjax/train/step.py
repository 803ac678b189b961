"""The train step: a pure function of (state, frozen, batch).

Student and teachers run in one jitted program. Frozen parameters are an argument:
neither closed over, nor donated, nor differentiated.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax.core.metrics import Mean
from kdjax.losses import LossSharding, fused_loss
from kdjax.parallel.sharding import Batch
from kdjax.train.accumulation import accumulate
from kdjax.train.learner import Frozen, Learner
from kdjax.train.objective import Objective, of_target
from kdjax.train.schedules import Schedule
from kdjax.train.state import TrainState
from kdjax.train.task import Task

TrainStep = Callable[[TrainState, Frozen, Batch], tuple[TrainState, dict[str, Mean]]]


def make_train_step(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    task: Task,
    *,
    micro_batches: int = 1,
    state_shardings: Any = None,
    loss_sharding: LossSharding | None = None,
    chunk_size: int | None = None,
    schedules: Mapping[str, Schedule] = {},
) -> TrainStep:
    """Returns `step(state, frozen, batch) -> (state, metrics)`, jitted.

    The loss is the weighted mean over the tokens of the GLOBAL batch, whatever the
    micro-batches and the mesh. The state is donated. If loss, gradient or the new
    parameters are not finite, parameters and optimiser state are left unchanged and
    `skipped` is 1.

    Args:
        learner: What learns.
        optimizer: Its optimiser.
        objective: What it minimises.
        task: Which labels a batch has.
        micro_batches: The number of parts of the batch processed in turn, to save
            memory.
        state_shardings: Those of the new state; None leaves them to the compiler.
        loss_sharding: How the loss is sharded over the mesh; None for one device.
        chunk_size: For how many tokens a device holds logits at a time; None chooses by
            the memory they take and, on accelerators, by speed.
        schedules: Values over the steps, by the names of the metrics that record them.
    """

    def weighted_sum(
        params: Any, frozen: Frozen, batch: Batch, step: Array
    ) -> tuple[Array, dict[str, Mean]]:
        labels, weights = task.labels(batch)
        total, parts = fused_loss(
            learner.forward(params, frozen, batch),
            learner.head(params, frozen),
            labels,
            weights,
            objective.targets(frozen, batch),
            hard=objective.hard(step),
            soft={name: soft.at(step) for name, soft in objective.soft.items()},
            chunk_size=chunk_size,
            sharding=loss_sharding,
        )
        by_target: Any = parts.soft
        soft = {of_target("soft", name): values for name, values in by_target.items()}
        means = {
            k: Mean.of(v, weights) for k, v in {"hard": parts.hard, **soft}.items()
        }
        return total, {"loss": Mean(total, weights.sum()), **means}

    def train_step(
        state: TrainState, frozen: Frozen, batch: Batch
    ) -> tuple[TrainState, dict[str, Mean]]:
        norm = jnp.maximum(task.labels(batch)[1].sum(), 1.0)  # all may be padding

        def loss(params: Any, part: Batch) -> tuple[Array, dict[str, Mean]]:
            total, metrics = weighted_sum(params, frozen, part, state.step)
            return total / norm, metrics

        gradient = jax.grad(loss, has_aux=True)
        grads, metrics = accumulate(
            gradient, state.params, batch, micro_batches, loss_sharding
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"].total) & jnp.isfinite(grad_norm)
        for leaf in jax.tree.leaves(params):  # finite gradients may make others
            finite &= jnp.isfinite(leaf).all()
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
        one = jnp.ones(())
        metrics["grad_norm"] = Mean(grad_norm, one)
        metrics["skipped"] = Mean(1.0 - finite, one)
        for name, value in schedules.items():
            metrics[name] = Mean(jnp.asarray(value(state.step), jnp.float32), one)
        return TrainState(state.step + 1, params, opt_state), metrics

    shardings = None if state_shardings is None else (state_shardings, None)
    return jax.jit(train_step, donate_argnums=0, out_shardings=shardings)
