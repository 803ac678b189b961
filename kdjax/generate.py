"""Continues prompts with a model, printing the text as it is made.

    python -m kdjax.generate --checkpoint=runs/gpt_small --prompt='def main('
    python -m kdjax.generate --checkpoint=DIR --prompt=Once --temperature=0.8 --top_k=40
    python -m kdjax.generate --checkpoint=model.gguf --prompt=One --prompt=Two
    python -m kdjax.generate --checkpoint=model.gguf --chat --prompt='Who are you?'

The text goes to stdout; the model's path and speed go to stderr. Several prompts are
continued in one batch and printed one after another. A text ends at the model's
end-of-text token or after --max_tokens.
"""

from absl import flags

from kdjax.core import cli
from kdjax.core.errors import UsageError
from kdjax.core.xla_flags import use_xla_flags

_MOST_TOKENS = 2**16  # the cache has a slot for each
_LARGEST_SEED = 2**31 - 1

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "The model: a run's workdir (for its first student), a directory in it such "
    "as RUN/twin-0, a directory in the Hugging Face format, a .gguf file, or a name on "
    "the Hugging Face hub such as HuggingFaceTB/SmolLM2-135M.",
)
_PROMPT = flags.DEFINE_multi_string(
    "prompt", [], "The text to continue; may be given several times."
)
_CHAT = flags.DEFINE_bool(
    "chat",
    False,
    "Treat prompts as messages, formatted with the tokenizer's chat template.",
)
_PARSE = flags.DEFINE_bool(
    "parse_special_tokens",
    False,
    "Read a token such as </s> in a prompt as that token, not as text. In a message "
    "it is always text.",
)
_MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens",
    128,
    "The maximum number of tokens to generate.",
    lower_bound=1,
    upper_bound=_MOST_TOKENS,
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature",
    0.0,
    "0: always the likeliest token; 1: the model's own distribution.",
)
_TOP_K = flags.DEFINE_integer(
    "top_k", 0, "Sample from the k likeliest tokens only; 0: from all."
)
_TOP_P = flags.DEFINE_float(
    "top_p",
    1.0,
    "Sample only from the likeliest tokens that together reach this probability.",
)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "The same seed gives the same text.",
    lower_bound=0,
    upper_bound=_LARGEST_SEED,
)


def main(argv: list[str]) -> None:
    """Continues the prompts given by the flags."""
    del argv
    if not _CHECKPOINT.value:
        raise UsageError("--checkpoint is missing, such as --checkpoint=runs/gpt_small")
    if not _PROMPT.value:
        raise UsageError("--prompt is missing, such as --prompt='Once upon a time'")
    use_xla_flags()
    # Imported late, so that a mistake is reported before seconds of imports.
    from kdjax.generation.sampling import Sampling

    sampling = Sampling(_TEMPERATURE.value, _TOP_K.value, _TOP_P.value)
    sampling.check()
    from kdjax.checkpoints import open_model
    from kdjax.core.logging import say
    from kdjax.generation.stream import generate_text

    stored = open_model(_CHECKPOINT.value, named="--checkpoint")
    speed = generate_text(
        stored,
        _PROMPT.value,
        max_tokens=_MAX_TOKENS.value,
        sampling=sampling,
        seed=_SEED.value,
        write=_write,
        chat=_CHAT.value,
        special_tokens="parse" if _PARSE.value else "text",
    )
    say(f"{stored.path}: {speed}")


def _write(text: str) -> None:
    print(text, end="", flush=True)


if __name__ == "__main__":
    cli.run(main)
