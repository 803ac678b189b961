"""How models continue the same held-out prompts."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from kdjax.generation.decode import ENDED, Generator
from kdjax.results.samples import Continuation
from kdjax.text import TextTokenizer

_SHORTEST = 8  # tokens of a document that can be a prompt and its continuation


class Prompt(NamedTuple):
    """The beginning of a held-out document, and how it goes on."""

    ids: list[int]
    rest: list[int]


def choose_prompts(
    rows: Sequence[dict[str, np.ndarray]], count: int, *, prompt: int, tokens: int
) -> list[Prompt]:
    """Returns prompts from rows spread over a split, fewer where there is no text.

    Args:
        rows: The split.
        count: How many are wanted.
        prompt: The most tokens of a prompt.
        tokens: The most tokens of what follows it.
    """
    indices = {(2 * i + 1) * len(rows) // (2 * count) for i in range(count)}
    prompts = []
    for index in sorted(indices):
        row = rows[index]
        segments = row["segments"]
        longest = int(np.bincount(segments[segments > 0], minlength=2).argmax())
        ids = row["tokens"][segments == longest].tolist()
        if len(ids) >= _SHORTEST:
            cut = min(prompt, len(ids) // 2)
            prompts.append(Prompt(ids[:cut], ids[cut : cut + tokens]))
    return prompts


def continue_prompts(
    generator: Generator,
    prompts: Sequence[Prompt],
    tokenizer: TextTokenizer,
    tokens: int,
) -> tuple[Continuation, ...]:
    """Returns how a model continues the prompts.

    Args:
        generator: The model, which takes the likeliest token.
        prompts: The prompts, at least one.
        tokenizer: The model's.
        tokens: The most tokens of a continuation.
    """
    streams = [tokenizer.make_stream(prompt.ids) for prompt in prompts]
    texts = [""] * len(prompts)
    ids = [prompt.ids for prompt in prompts]
    for made in generator(ids, max_tokens=tokens, key=jax.random.key(0)):
        for number, token in enumerate(made.tolist()):
            texts[number] += "" if token == ENDED else streams[number](token)
    return tuple(
        Continuation(tokenizer.decode(prompt.ids), _rest(tokenizer, prompt), text)
        for prompt, text in zip(prompts, texts, strict=True)
    )


def _rest(tokenizer: TextTokenizer, prompt: Prompt) -> str:
    stream = tokenizer.make_stream(prompt.ids)
    return "".join(map(stream, prompt.rest))
