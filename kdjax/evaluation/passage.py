"""A held-out passage through a model's eyes: what it predicts, token by token."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from kdjax.losses.targets import TOKENS
from kdjax.losses.vocabulary import Vocabulary
from kdjax.parallel.sharding import Batch
from kdjax.results.samples import Passage, PassageToken
from kdjax.targets.online import Predict, halve

GUESSES = 5
Scores = Callable[[Any, Batch], Float[Array, "R T V"]]


class Text(NamedTuple):
    """Consecutive rows of a split, of which the first tokens are read.

    Attributes:
        tokens: The ids, [R, T].
        segments: The number of each id's document, [R, T]; 0 is padding.
    """

    tokens: Int[np.ndarray, "R T"]
    segments: Int[np.ndarray, "R T"]


def choose_text(rows: Sequence[dict[str, np.ndarray]], tokens: int) -> Text:
    """Returns about `tokens` tokens from the middle of a split."""
    length = len(rows[0]["tokens"])
    count = min(len(rows), -(-tokens // length))
    first = min(len(rows) // 2, len(rows) - count)
    chosen = [rows[first + i] for i in range(count)]
    ids, segments = (
        np.stack([row[name][:tokens] for row in chosen])
        for name in ("tokens", "segments")
    )
    left = tokens - ids.shape[1] * (count - 1)  # of the last row
    segments[-1, left:] = 0
    return Text(ids, segments)


def make_scores(predict: Predict, text: Text, mesh: Mesh) -> Scores:
    """Returns `scores(params, batch) -> logits`, [R, T, V], of the text's positions.

    Args:
        predict: The model.
        text: The text, whose rows are the batch's first ones.
        mesh: The devices; each gets all logits.
    """
    rows, length = text.tokens.shape
    halves = halve(predict)

    def narrowed(leaf: Array) -> Array:
        return leaf[:rows, :length].reshape(rows * length, *leaf.shape[2:])

    def scores(params: Any, batch: Batch, leaves: Any) -> Float[Array, "R T V"]:
        targets = halves.joined(params, batch, leaves)
        # Before the head: the logits of whole rows may not fit.
        few = jax.tree.map(
            lambda leaf, kind: narrowed(leaf) if kind == TOKENS else leaf,
            targets,
            targets.layout(),
        )
        real = targets.real
        logits = few.fitted(real).logits(Vocabulary(), real, real)
        return logits.reshape(rows, length, real)

    compiled = jax.jit(scores, out_shardings=NamedSharding(mesh, P()))
    return lambda params, batch: compiled(params, batch, halves.read(params, batch))


def read_passage(
    text: Text,
    texts: Sequence[str],
    model: Float[np.ndarray, "R T V"],
    teacher: Float[np.ndarray, "R T W"],
    piece: Callable[[int], str],
) -> Passage:
    """Returns what a model predicts for every token of a text.

    Args:
        text: The text.
        texts: What each of its tokens says, padding left out.
        model: The model's logits.
        teacher: The teacher's logits, over the same ids but for padding.
        piece: From an id to its text.
    """
    found, remaining = [], iter(texts)
    for row, segments in enumerate(text.segments):
        for at in np.flatnonzero(segments):
            shown = next(remaining)
            if at == 0 or segments[at - 1] != segments[at]:
                found.append(PassageToken(shown))
                continue
            logits = model[row, at - 1], teacher[row, at - 1]
            label = int(text.tokens[row, at])
            found.append(_token(shown, *logits, label, piece))
    return Passage(tuple(found))


def _token(
    text: str,
    model: Float[np.ndarray, "V"],
    teacher: Float[np.ndarray, "W"],
    label: int,
    piece: Callable[[int], str],
) -> PassageToken:
    common = min(len(model), len(teacher))
    p, q = _log_softmax(teacher[:common]), _log_softmax(model[:common])
    probs = np.exp(_log_softmax(model))
    guesses: dict[str, float] = {}
    for token in np.argsort(-probs, kind="stable")[:GUESSES].tolist():
        # Two ids may have the same text.
        guess = piece(token)
        guesses[guess] = _rounded(guesses.get(guess, 0.0) + probs[token])
    divergence = float(np.exp(p) @ (p - q))
    return PassageToken(text, _rounded(divergence), _rounded(probs[label]), guesses)


def _log_softmax(logits: Float[np.ndarray, "V"]) -> Float[np.ndarray, "V"]:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def _rounded(value: float) -> float:
    """Returns four significant digits: the file that holds them stays small."""
    return float(f"{value:.4g}")
