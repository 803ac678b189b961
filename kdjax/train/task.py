"""What is asked of a model: which labels a batch has, and which metric decides."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array

from kdjax.losses import next_token
from kdjax.parallel.sharding import Batch


class Task(NamedTuple):
    """A task.

    Attributes:
        labels: `labels(batch) -> (labels, weights)`, both [B, T]: the true ids and what
            each position counts.
        headline: The held-out metric that decides which model is better; lower is.
        finish: `finish(metrics, split) -> metrics`, adds what follows from the mean
            metrics of a held-out split and is no mean over tokens itself.
    """

    labels: Callable[[Batch], tuple[Array, Array]]
    headline: str
    finish: Callable[[dict[str, Any], str], dict[str, Any]]


def next_token_task(
    bits_per_byte: Callable[[float, str], float] | None = None,
) -> Task:
    """Returns the prediction of the next token, judged in bits a byte of text.

    Batches are {"tokens": [B, T], "segments": [B, T]}; with "completion" [B, T] only
    the tokens that it marks are learnt.

    Args:
        bits_per_byte: From nats a token and the split's name, as bits a byte; None,
            where nobody knows of bytes, judges by the cross-entropy in nats a token.
    """

    def labels(batch: Batch) -> tuple[Array, Array]:
        return next_token(batch["tokens"], batch["segments"], batch.get("completion"))

    if bits_per_byte is None:
        return Task(labels, "cross_entropy", lambda metrics, split: metrics)

    def finish(metrics: dict[str, Any], split: str) -> dict[str, Any]:
        bits = bits_per_byte(metrics["cross_entropy"], split)
        return metrics | {"bits_per_byte": bits}

    return Task(labels, "bits_per_byte", finish)
