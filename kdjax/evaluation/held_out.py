"""Held-out metrics of one model on one split."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdjax.core.metrics import Mean
from kdjax.evaluation.entropy import buckets, by_entropy
from kdjax.evaluation.likelihood import Subject
from kdjax.losses import LossSharding, TokenMetric, token_metrics
from kdjax.parallel.sharding import Batch
from kdjax.results.measured import CalibrationBin
from kdjax.targets.online import Predict, halve
from kdjax.train.task import Task

BINS = 15  # of confidence, the usual number (Guo et al. 2017, arXiv:1706.04599)

EvalStep = Callable[[Any, Any, Batch], dict[str, Mean]]
OwnMetrics = tuple[tuple[str, TokenMetric], ...]  # each with its name


class HeldOutText:
    """The metrics of held-out text, as an evaluator; see `Evaluator`."""

    def __init__(
        self,
        name: str,
        task: Task,
        batches: Callable[[], Iterable[Batch]],
        *,
        teacher: Predict | None = None,
        frozen: Any = None,
        own: OwnMetrics = (),
        brief: bool = False,
        loss_sharding: LossSharding | None = None,
    ) -> None:
        """Compiles nothing yet.

        Args:
            name: The split, which `task.finish` is told.
            task: Which labels a batch has.
            batches: Returns the text.
            teacher: What models are compared with; None: nothing.
            frozen: The teacher's parameters.
            own: Further metrics of a token.
            brief: Whether the loss and own metrics suffice.
            loss_sharding: How the vocabulary is sharded over the mesh.
        """
        self.name = name
        self._task, self._batches = task, batches
        self._teacher, self._frozen = teacher, {} if frozen is None else frozen
        self._own, self._brief, self._sharding = own, brief, loss_sharding

    def __call__(self, subject: Subject, params: Any) -> dict[str, Any]:
        """Returns every metric, as `evaluate` does."""
        step = make_eval_step(
            self._task,
            subject.predict,
            self._teacher,
            own=self._own,
            brief=self._brief,
            loss_sharding=self._sharding,
        )
        metrics = evaluate(step, params, self._frozen, self._batches())
        return self._task.finish(metrics, self.name)


# So that an evaluation of other rows, or of other parameters, compiles nothing again.
@functools.lru_cache(maxsize=64)
def make_eval_step(
    task: Task,
    model: Predict,
    teacher: Predict | None = None,
    *,
    own: OwnMetrics = (),
    brief: bool = False,
    loss_sharding: LossSharding | None = None,
) -> EvalStep:
    """Returns `step(params, frozen, batch) -> metrics`, compiled, the same each time.

    The metrics are those of `token_metrics`, except that "confidence" and "correct" are
    summed in each of `BINS` bins of confidence, and "teacher_entropy" divides the
    tokens into buckets.

    Args:
        task: Which labels a batch has.
        model: Maps `params` and a batch to the distributions to evaluate.
        teacher: Maps `frozen` and a batch to the distributions to compare with. Where
            it is `model`, that is compared with itself, and computed once.
        own: Further metrics of a token.
        brief: Whether to return the cross-entropy and own metrics alone.
        loss_sharding: How the vocabulary is sharded over the mesh.
    """
    mine, others = halve(model), None
    if teacher is not None and teacher is not model:
        others = halve(teacher)

    def measure(
        params: Any, frozen: Any, batch: Batch, read: Any, taught: Any
    ) -> dict[str, Mean]:
        labels, weights = task.labels(batch)
        found = mine.joined(params, batch, read)
        targets = None if teacher is None else found
        if others is not None:
            targets = others.joined(frozen, batch, taught)
        values = token_metrics(
            found,
            labels,
            targets,
            sharding=loss_sharding,
            further=dict(own),
        )
        if brief:  # the rest is not computed either
            names = ("cross_entropy", *dict(own))
            return {name: Mean.of(values[name], weights) for name in names}
        bins = _confidence_bins(
            values.pop("confidence"), values.pop("correct"), weights
        )
        if "teacher_entropy" in values:
            entropy = values.pop("teacher_entropy")
            compared = values["forward_kl"], values["agreement"]
            bins |= by_entropy(entropy, *compared, weights)
        return {k: Mean.of(value, weights) for k, value in values.items()} | bins

    compiled = jax.jit(measure)

    def eval_step(params: Any, frozen: Any, batch: Batch) -> dict[str, Mean]:
        taught = None if others is None else others.read(frozen, batch)
        return compiled(params, frozen, batch, mine.read(params, batch), taught)

    return eval_step


def _confidence_bins(
    confidence: Float[Array, "B T"], correct: Float[Array, "B T"], weights: Array
) -> dict[str, Mean]:
    """Returns confidence and accuracy of the top-1 prediction by confidence bin."""
    index = jnp.minimum((confidence * BINS).astype(jnp.int32), BINS - 1)

    def by_bin(values: Array) -> Array:
        return jnp.zeros(BINS).at[index.ravel()].add(values.ravel())

    count = by_bin(weights)
    return {
        "bin_confidence": Mean(by_bin(confidence * weights), count),
        "bin_accuracy": Mean(by_bin(correct * weights), count),
    }


def evaluate(
    eval_step: EvalStep, params: Any, teacher_params: Any, batches: Iterable[Batch]
) -> dict[str, Any]:
    """Returns every metric over all batches, as Python floats.

    The bins of confidence become the expected calibration error and, for the plot,
    "calibration", a tuple of `CalibrationBin`; the buckets of entropy become
    "by_entropy", a tuple of `EntropyBucket`.
    """
    found = [eval_step(params, teacher_params, batch) for batch in batches]
    # Added on the host: on a device each sum would be a program of its own.
    fetched = jax.device_get(found)
    host = jax.tree.map(lambda *each: np.sum(each, 0, np.float64), *fetched)
    others: dict[str, Any] = buckets(host)
    if "bin_confidence" in host:
        bins = host.pop("bin_confidence"), host.pop("bin_accuracy")
        others |= _calibration_error(*bins)
    return {name: mean.compute() for name, mean in host.items()} | others


def _calibration_error(confidence: Mean, accuracy: Mean) -> dict[str, Any]:
    """Returns ECE = sum over bins of (share of tokens) * |accuracy - confidence|."""
    count = np.asarray(confidence.count)
    used = count > 0
    mean_confidence = np.asarray(confidence.total)[used] / count[used]
    mean_accuracy = np.asarray(accuracy.total)[used] / count[used]
    share = count[used] / count.sum()
    return {
        "calibration_error": float(share @ np.abs(mean_accuracy - mean_confidence)),
        "calibration": tuple(
            CalibrationBin(float(c), float(a), int(n))
            for c, a, n in zip(mean_confidence, mean_accuracy, count[used], strict=True)
        ),
    }
