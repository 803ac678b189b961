"""What a model is trained for: which labels a batch has, and which metric decides."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array

from kdjax.losses import next_token
from kdjax.parallel.sharding import Batch


class Task(NamedTuple):
    """What a model is trained and judged on.

    Attributes:
        labels: `labels(batch) -> (labels, weights)`, both [B, T]: the true ids and the
            weight of each position.
        headline: The held-out metric that decides which model is better: the lower.
        finish: `finish(metrics, split) -> metrics`, adds what follows from the mean
            metrics of a held-out split but is not a mean over tokens itself.
    """

    labels: Callable[[Batch], tuple[Array, Array]]
    headline: str
    finish: Callable[[dict[str, Any], str], dict[str, Any]]


def next_token_task(
    bits_per_byte: Callable[[float, str], float] | None = None,
) -> Task:
    """Returns next-token prediction, judged in bits per byte of text.

    Batches are {"tokens": [B, T], "segments": [B, T]}; with "completion" [B, T] only
    the tokens that it marks are labels.

    Args:
        bits_per_byte: From nats per token and the split's name to bits per byte; None,
            where bytes are unknown, judges by the cross-entropy in nats per token.
    """

    def labels(batch: Batch) -> tuple[Array, Array]:
        return next_token(batch["tokens"], batch["segments"], batch.get("completion"))

    if bits_per_byte is None:
        return Task(labels, "cross_entropy", lambda metrics, split: metrics)

    def finish(metrics: dict[str, Any], split: str) -> dict[str, Any]:
        bits = bits_per_byte(metrics["cross_entropy"], split)
        return metrics | {"bits_per_byte": bits}

    return Task(labels, "bits_per_byte", finish)
