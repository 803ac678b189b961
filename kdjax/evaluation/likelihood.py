"""Log-likelihoods of continuations: in batches of few lengths, each compiled once."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kdjax.core.errors import UsageError
from kdjax.evaluation.pairs import Pair
from kdjax.losses import LossSharding, token_metrics
from kdjax.models import Model
from kdjax.parallel.sharding import Batch, data_shard, to_devices
from kdjax.targets.online import Predict, of_model

_SHORTEST = 16  # tokens; lengths are powers of two from this one on
_USUAL = 512  # tokens; longer texts come with fewer rows


class Subject(NamedTuple):
    """What is evaluated, but for its parameters.

    Programs are compiled once for each subject, so it should be made once.

    Attributes:
        predict: From parameters and a batch to next-token distributions.
        models: The model, or several whose predictions are averaged.
    """

    predict: Predict
    models: tuple[Model, ...]

    @classmethod
    def of(cls, model: Model) -> "Subject":
        """Returns a single model as a subject."""
        return cls(of_model(model), (model,))

    @property
    def longest(self) -> int:
        """How many positions it has; 0: any number."""
        limits = [model.config.max_length for model in self.models]
        return min((limit for limit in limits if limit), default=0)

    @property
    def vocab_size(self) -> int:
        """How many ids it knows."""
        return min(model.config.vocab_size for model in self.models)


class Likelihood(NamedTuple):
    """How likely a continuation is.

    Attributes:
        log: The sum of its tokens' log-probabilities, in nats.
        is_greedy: Whether each of them is the likeliest token.
    """

    log: float
    is_greedy: bool


def likelihoods(
    subject: Subject,
    params: Any,
    pairs: Sequence[Pair],
    *,
    mesh: Mesh,
    batch_size: int,
    longest: int = 0,
) -> list[Likelihood]:
    """Returns how likely each continuation is after its context.

    What exceeds the model's positions is dropped from the beginning.

    Args:
        subject: The model.
        params: Its parameters.
        pairs: Contexts and continuations, in any order.
        mesh: The devices.
        batch_size: Rows at a time, divisible by the devices along the batch.
        longest: The most tokens that the model reads at once; 0: as many as it can.

    Raises:
        UsageError: The model does not know an id, or a continuation is too long.
    """
    longest = longest or subject.longest
    _check(subject, pairs, longest)
    step = _step(subject.predict, mesh)
    least = mesh.shape["data"] * mesh.shape["fsdp"]
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    pending = [
        step(params, _placed(batch, mesh))
        for batch in _batches([pairs[i] for i in order], batch_size, least, longest)
    ]
    found: list[Likelihood | None] = [None] * len(pairs)
    places = iter(order)
    for logs, greedy in jax.device_get(pending):
        # The last batch of a length ends with padding, whose rows have no weight.
        for log, is_greedy in zip(logs.tolist(), greedy.tolist(), strict=True):
            if is_greedy >= 0:
                found[next(places)] = Likelihood(log, bool(is_greedy))
    return [each for each in found if each is not None]


def _check(subject: Subject, pairs: Sequence[Pair], longest: int) -> None:
    largest = max((max(max(p.context), max(p.continuation)) for p in pairs), default=0)
    if largest >= subject.vocab_size:
        raise UsageError(
            f"the texts have the id {largest}, but the model knows "
            f"{subject.vocab_size} ids; the model and the tokenizer do not match"
        )
    most = max((len(pair.continuation) for pair in pairs), default=0)
    if longest and most > longest:
        raise UsageError(
            f"a continuation has {most} tokens, more than the {longest} positions "
            "that the model was made for; shorten it"
        )


def padded_length(length: int, longest: int = 0) -> int:
    """Returns the next power of two, at least 16, and at most `longest` if given.

    Example:
        >>> [padded_length(length) for length in (1, 16, 17)]
        [16, 16, 32]
    """
    size = max(_SHORTEST, 1 << (length - 1).bit_length())
    return min(size, longest) if longest else size


def _batches(
    pairs: Sequence[Pair], batch_size: int, least: int, longest: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of one length each, of pairs sorted by length.

    Those of long texts have fewer rows, a multiple of `least`, because attention's
    memory may grow with the square of the length.
    """

    def length(pair: Pair) -> int:
        count = len(pair.context) + len(pair.continuation) - 1
        return padded_length(min(count, longest) if longest else count, longest)

    start = 0
    while start < len(pairs):
        size = length(pairs[start])
        share = min(1.0, (_USUAL / size) ** 2)
        rows = max(least, int(batch_size * share) // least * least)
        chosen = [pair for pair in pairs[start : start + rows] if length(pair) == size]
        yield _batch(chosen, rows, size)
        start += len(chosen)


def _batch(pairs: Sequence[Pair], rows: int, size: int) -> dict[str, np.ndarray]:
    """Returns tokens, labels one place ahead, and which labels count."""
    batch = {
        name: np.zeros((rows, size), np.int32)
        for name in ("tokens", "segments", "labels", "counts")
    }
    for row, (context, continuation) in enumerate(pairs):
        ids = (context + continuation)[-size - 1 :]
        used = len(ids) - 1
        batch["tokens"][row, :used] = ids[:-1]
        batch["labels"][row, :used] = ids[1:]
        batch["segments"][row, :used] = 1
        batch["counts"][row, used - len(continuation) : used] = 1
    return batch


def _placed(batch: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """Returns a batch on the devices, to which each process gives its rows."""
    share = data_shard(mesh, len(batch["tokens"]))
    local = {name: rows[[*share.rows]] for name, rows in batch.items()}
    return to_devices(local, mesh, share)


@functools.lru_cache(maxsize=32)
def _step(predict: Predict, mesh: Mesh) -> Callable[[Any, Batch], tuple[Any, Any]]:
    """Returns the jitted function of a batch; its results are whole everywhere."""

    def step(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        values = token_metrics(
            predict(params, batch), batch["labels"], sharding=LossSharding(mesh)
        )
        counts = batch["counts"] > 0
        logs = -jnp.where(counts, values["cross_entropy"], 0.0).sum(1)
        greedy = jnp.all(~counts | (values["correct"] > 0), axis=1)
        # -1: a row of padding
        return logs, jnp.where(counts.any(1), greedy.astype(jnp.int32), -1)

    return jax.jit(step, out_shardings=NamedSharding(mesh, P()))
