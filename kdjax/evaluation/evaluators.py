"""Evaluators: values that measure how good a model is.

Held-out text (`held_out.HeldOutText`), multiple choice and exact match are evaluators;
another one needs only a name and a call. They run during training, at its end, and in
`python -m kdjax.evaluate`.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from kdjax.core.errors import UsageError
from kdjax.evaluation.continuing import Continuer
from kdjax.evaluation.items import Choice, Items, Match
from kdjax.evaluation.likelihood import Subject, likelihoods
from kdjax.evaluation.pairs import encode_pairs, encode_prompt
from kdjax.text import SpecialTokens, TextTokenizer

ERROR = "_stderr"  # ends the name of a metric's standard error


@runtime_checkable
class Evaluator(Protocol):
    """Measures a model."""

    @property
    def name(self) -> str:
        """The name, under which the metrics are reported."""

    def __call__(self, subject: Subject, params: Any) -> dict[str, Any]:
        """Returns the metrics, which are floats, by name.

        That of a mean over items comes with its standard error, whose name ends with
        `ERROR`. A metric that the subject cannot have is left out.

        Args:
            subject: The model; what is compiled for it is kept.
            params: Its parameters.
        """


class MultipleChoice:
    """Which of several texts the model finds the likeliest after a prompt.

    The metrics are those of lm-evaluation-harness: "acc" compares log-likelihoods,
    "acc_norm" those per character of the choice, "acc_bytes" those per byte.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[Choice],
        tokenizer: TextTokenizer,
        *,
        mesh: Mesh,
        batch_size: int,
        special_tokens: SpecialTokens = "text",
    ) -> None:
        """Encodes the items.

        Args:
            name: The name.
            items: The questions.
            tokenizer: The models' tokenizer.
            mesh: The devices.
            batch_size: Rows at a time, divisible by the devices along the batch.
            special_tokens: Whether control tokens in texts are text or are parsed.

        Raises:
            UsageError: The tokenizer has no ids for a choice.
        """
        self.name = name
        self._items, self._mesh, self._batch_size = items, mesh, batch_size
        texts = [(item.prompt, choice) for item in items for choice in item.choices]
        self._pairs = encode_pairs(tokenizer, texts, special_tokens)

    def __call__(self, subject: Subject, params: Any) -> dict[str, float]:
        """Returns the shares of questions that are answered right."""
        found = likelihoods(
            subject, params, self._pairs, mesh=self._mesh, batch_size=self._batch_size
        )
        logs = iter(each.log for each in found)
        right: dict[str, list[float]] = {"acc": [], "acc_norm": [], "acc_bytes": []}
        for item in self._items:
            each = np.array([next(logs) for _ in item.choices])
            sizes = {
                "acc": np.ones(len(each)),
                "acc_norm": np.array([len(label) for label in item.labels]),
                "acc_bytes": np.array([len(label.encode()) for label in item.labels]),
            }
            for metric, size in sizes.items():
                right[metric].append(float(np.argmax(each / size) == item.answer))
        means = [mean(name, values) for name, values in right.items()]
        return {k: v for each in means for k, v in each.items()}


class ExactMatch:
    """How often what the model says after a prompt is one of the right answers.

    It takes the likeliest token each time, up to a stop text; white space around what
    it says does not count.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[Match],
        tokenizer: TextTokenizer,
        *,
        batch_size: int,
        special_tokens: SpecialTokens = "text",
    ) -> None:
        """Encodes the items; the arguments are those of `MultipleChoice`."""
        if jax.process_count() > 1:
            raise UsageError(
                f"{name} asks for exact matches, which one process alone can generate; "
                "leave it out, or run python -m kdjax.evaluate afterwards"
            )
        self.name = name
        self._items, self._tokenizer, self._size = items, tokenizer, batch_size
        self._prompts = [
            encode_prompt(tokenizer, item.prompt, special_tokens) for item in items
        ]
        # A token has a byte at least; before it a space, after it a stop text.
        self._most = max(
            2
            + len(answer.encode())
            + max((len(s.encode()) for s in item.stop), default=0)
            for item in items
            for answer in item.answers
        )
        self._continuers: dict[Subject, Continuer] = {}

    def __call__(self, subject: Subject, params: Any) -> dict[str, float]:
        """Returns the share of exact matches; nothing for several models at once."""
        if len(subject.models) != 1:
            return {}
        largest = max(map(max, self._prompts))
        if largest >= subject.vocab_size:
            raise UsageError(
                f"the prompts of {self.name} have the id {largest}, but the model "
                f"knows {subject.vocab_size} ids; the model and the tokenizer do not "
                "match"
            )
        if subject not in self._continuers:
            self._continuers[subject] = Continuer(
                subject.models[0], self._tokenizer, batch_size=self._size
            )
        said = self._continuers[subject](
            params, self._prompts, max_tokens=self._most, is_done=self._is_done
        )
        pairs = zip(said, self._items, strict=True)
        return mean(
            "exact_match",
            [
                float(until(text, item.stop).strip() in item.answers)
                for text, item in pairs
            ],
        )

    def _is_done(self, number: int, text: str) -> bool:
        """Returns whether a text has ended, or can be no right answer any more."""
        item, said = self._items[number], text.lstrip()
        if any(stop in text for stop in item.stop):
            return True
        return not any(
            answer.startswith(said) or said.rstrip() == answer
            for answer in item.answers
        )


def make_evaluator(
    items: Items,
    tokenizer: TextTokenizer,
    *,
    mesh: Mesh,
    batch_size: int,
    special_tokens: SpecialTokens = "text",
) -> Evaluator:
    """Returns the evaluator of a file's items; the arguments are `MultipleChoice`'s."""
    choices = [item for item in items.items if isinstance(item, Choice)]
    matches = [item for item in items.items if isinstance(item, Match)]
    if choices:
        return MultipleChoice(
            items.name,
            choices,
            tokenizer,
            mesh=mesh,
            batch_size=batch_size,
            special_tokens=special_tokens,
        )
    return ExactMatch(
        items.name,
        matches,
        tokenizer,
        batch_size=batch_size,
        special_tokens=special_tokens,
    )


def until(text: str, stops: Sequence[str]) -> str:
    """Returns a text up to the first of the stop texts."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(places, default=len(text))]


def mean(name: str, values: Sequence[float]) -> dict[str, float]:
    """Returns the mean of values by name, and its standard error if there are several.

    Example:
        >>> mean("acc", [1.0, 0.0, 1.0, 0.0])
        {'acc': 0.5, 'acc_stderr': 0.28867513459481287}
    """
    found = {name: statistics.fmean(values)}
    if len(values) > 1:
        found[name + ERROR] = statistics.stdev(values) / math.sqrt(len(values))
    return found
