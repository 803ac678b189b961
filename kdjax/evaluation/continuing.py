"""Texts that a model continues until they are done, many at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from kdjax.generation.decode import ENDED, Generator
from kdjax.generation.sampling import Sampling
from kdjax.models import Model
from kdjax.text import TextTokenizer

# From a prompt's number and what the model has said so far to whether that suffices.
IsDone = Callable[[int, str], bool]


class Continuer:
    """Continues any number of prompts with one model, in batches of one size."""

    def __init__(
        self,
        model: Model,
        tokenizer: TextTokenizer,
        *,
        batch_size: int,
        stops: Sequence[int] = (),
        sampling: Sampling = Sampling(),  # noqa: B008 (a constant)
    ) -> None:
        """Compiles nothing yet.

        Args:
            model: The model.
            tokenizer: Its tokenizer.
            batch_size: Prompts at a time.
            stops: Ids that end a text; if empty, those of the tokenizer.
            sampling: How tokens are sampled.
        """
        self._model, self._tokenizer, self._size = model, tokenizer, batch_size
        self._stops, self._sampling = stops or tokenizer.stops, sampling
        self._generator: Generator | None = None

    def __call__(
        self,
        params: Any,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        is_done: IsDone,
        longest: int = 0,
        seed: int = 0,
    ) -> list[str]:
        """Returns what follows each prompt.

        Prompts that leave too few of the model's positions lose their beginning.

        Args:
            params: The model's parameters.
            prompts: The ids of each.
            max_tokens: The most tokens of a continuation.
            is_done: Whether a continuation may end.
            longest: The most positions to use; 0: as many as the model has.
            seed: Determines what is sampled.
        """
        longest = longest or self._model.config.max_length
        if longest:
            max_tokens = min(max_tokens, longest - 1)
            prompts = [prompt[-(longest - max_tokens) :] for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        texts = [""] * len(prompts)
        for start in range(0, len(order), self._size):
            chosen = order[start : start + self._size]
            # What pads the last batch repeats a prompt of it.
            batch = [
                prompts[i] for i in (chosen + chosen[:1] * self._size)[: self._size]
            ]
            self._continue(
                params, batch, chosen, texts, max_tokens, is_done, seed + start
            )
        return texts

    def _continue(
        self,
        params: Any,
        batch: Sequence[Sequence[int]],
        chosen: Sequence[int],
        texts: list[str],
        max_tokens: int,
        is_done: IsDone,
        seed: int,
    ) -> None:
        """Fills in the texts that one batch of prompts is continued with."""
        if self._generator is None:
            self._generator = Generator(
                self._model, params, sampling=self._sampling, stops=self._stops
            )
        generator = self._generator.with_params(params)
        # Of what is said alone, as transformers decodes it: without the space that a
        # SentencePiece tokenizer's first word begins with.
        streams = {i: self._tokenizer.make_stream([]) for i in chosen}
        # While a run trains, jax refuses the host's arrays, of which decoding has many.
        with jax.transfer_guard("allow"):
            rows = generator(batch, max_tokens=max_tokens, key=jax.random.key(seed))
            for row in rows:
                for i, token in zip(chosen, row.tolist(), strict=False):
                    if i not in streams:
                        continue
                    texts[i] += "" if token == ENDED else streams[i](token)
                    if token == ENDED or is_done(i, texts[i]):
                        del streams[i]
                if not streams:
                    return
