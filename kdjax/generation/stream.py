"""Generates text from prompts, piece by piece, as a terminal shows it."""

import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax

from kdjax.checkpoints import StoredModel
from kdjax.core.errors import UsageError
from kdjax.generation.decode import ENDED, Generator
from kdjax.generation.sampling import Sampling


class Speed(NamedTuple):
    """Token counts and times; a row's first new token belongs to the prefill.

    Attributes:
        compile_seconds: The time to compile, before anything else.
        prefill_tokens: The tokens of all prompts.
        prefill_seconds: The time until each row had its first token.
        decode_tokens: The tokens of all rows after their first.
        decode_seconds: The time for these.
    """

    compile_seconds: float
    prefill_tokens: int
    prefill_seconds: float
    decode_tokens: int
    decode_seconds: float

    def __str__(self) -> str:
        """Returns a line for the terminal."""
        parts = [f"compiled in {self.compile_seconds:.1f} s"]
        for name, tokens, seconds in (
            ("prefill", self.prefill_tokens, self.prefill_seconds),
            ("decode", self.decode_tokens, self.decode_seconds),
        ):
            if tokens:
                parts.append(f"{name}: {tokens:,} tokens, {tokens / seconds:,.1f}/s")
        return "; ".join(parts)


def generate_text(
    stored: StoredModel,
    texts: Sequence[str],
    *,
    max_tokens: int,
    sampling: Sampling,
    seed: int,
    write: Callable[[str], object],
    chat: bool = False,
    special_tokens: Literal["text", "parse"] = "text",
) -> Speed:
    """Writes texts and continuations: the first as it is generated, then the rest.

    Args:
        stored: The model.
        texts: The texts to continue, in one batch.
        max_tokens: The maximum number of tokens in each continuation.
        sampling: How tokens are sampled.
        seed: Determines what is sampled.
        write: Called with each piece of text; no piece ends inside a character.
        chat: Whether a text is a message, which the model answers.
        special_tokens: Whether control tokens in other texts are text or are parsed.

    Raises:
        UsageError: A text is empty, too long, or has a token unknown to the model.
    """
    prompts = [
        encode(stored, text, chat=chat, special_tokens=special_tokens) for text in texts
    ]
    if chat:  # the answer is a text of its own
        texts = [f"{text}\n" for text in texts]
    model, params = stored.load()
    generator = Generator(model, params, sampling=sampling, stops=stored.stop_tokens)
    shape = generator.shape(prompts, max_tokens)
    times = [time.perf_counter()]
    generator.compile(shape)
    streams = [stored.tokenizer.make_stream(prompt) for prompt in prompts]
    continuations = [""] * len(texts)
    count = 0
    write(texts[0])
    times.append(time.perf_counter())
    for row in generator(prompts, max_tokens=max_tokens, key=jax.random.key(seed)):
        times.append(time.perf_counter())
        count += int((row != ENDED).sum()) if len(times) > 3 else 0
        for number, token in enumerate(row.tolist()):
            piece = "" if token == ENDED else streams[number](token)
            continuations[number] += piece
            if piece and number == 0:
                write(piece)
    times.append(time.perf_counter())
    for text, continuation in zip(texts[1:], continuations[1:], strict=True):
        write(f"\n\n{text}{continuation}")
    write("\n")
    began, compiled, first, ended = *times[:3], times[-1]
    total = sum(map(len, prompts))
    return Speed(compiled - began, total, first - compiled, count, ended - first)


def encode(
    stored: StoredModel,
    text: str,
    *,
    chat: bool = False,
    special_tokens: Literal["text", "parse"] = "text",
) -> list[int]:
    """Returns the ids of a text to be continued or, with `chat`, answered.

    Raises:
        UsageError: There are no ids, or one is unknown to the model.
    """
    if chat:
        ids = stored.tokenizer.encode_message(text)
    else:
        ids = stored.tokenizer.encode_prompt(text, special_tokens)
    if not ids:
        raise UsageError("the prompt is empty; give the model something to continue")
    known = stored.config.vocab_size
    if max(ids) >= known:
        token = stored.tokenizer.tokenizer.id_to_token(max(ids))
        raise UsageError(
            f"the prompt has {token!r} with id {max(ids)}, but the model knows "
            f"{known} ids; the model and the tokenizer do not match"
        )
    return ids
