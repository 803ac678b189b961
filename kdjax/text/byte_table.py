"""Tokenizers of bytes alone: a table of 256 ids does what the library does."""

import functools
import json

import numpy as np
import tokenizers
from tokenizers import pre_tokenizers

# What of a model may be set without changing an id, as there is nothing to merge.
_HARMLESS = {"type", "vocab", "merges", "unk_token", "fuse_unk"}


@functools.lru_cache(maxsize=4)
def byte_table(tokenizer: tokenizers.Tokenizer) -> np.ndarray | None:
    """Returns the id of each byte, [256], or None unless ids follow from bytes alone.

    Texts that spell one of the tokenizer's added tokens are another matter: its library
    looks for those first.
    """
    step = tokenizer.pre_tokenizer
    is_plain = (
        tokenizer.normalizer is None
        and type(step) is pre_tokenizers.ByteLevel
        and not step.add_prefix_space
        and type(tokenizer.model).__name__ == "BPE"
    )
    if not is_plain or tokenizer.padding or tokenizer.truncation:
        return None
    model = json.loads(tokenizer.model.__getstate__())
    changing = {key for key, value in model.items() if value and key not in _HARMLESS}
    ids = [model["vocab"].get(letter) for letter in _letters()]
    if model["merges"] or changing or None in ids:
        return None
    return np.array(ids, np.int32)


def _letters() -> list[str]:
    """Returns the letters that stand for the bytes 0 to 255, as GPT-2 chose them."""
    kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in kept else next(others)) for byte in range(256)]
