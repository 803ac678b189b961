"""What a tokenizer has no ids for: text that it drops or calls unknown."""

import collections
import functools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import pre_tokenizers

from kdjax.core.errors import UsageError
from kdjax.text.controls import is_byte_level, steps_of

# Normalizers and pre-tokenizers that keep every letter, in some form, or that drop
# white space only, which is not counted.
_KEEPING = {
    *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "ByteLevel", "Metaspace"),
    *("Digits", "UnicodeScripts", "FixedLength", "Strip"),
    *("Whitespace", "WhitespaceSplit", "BertPreTokenizer"),
}
# Normalizers from whose output the text can be restored.
_EXACT = {"Prepend", "ByteLevel"}
# Pre-tokenizers after which white space is gone.
_DROPPING = {"Whitespace", "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit"}
_UNKNOWN = "\ue000unknown\ue001"


class Coverage(NamedTuple):
    """How a tokenizer treats what it does not know.

    Attributes:
        is_total: Whether every text has ids, so that nothing needs to be counted.
        counter: A tokenizer that marks what is unknown.
        unknown: The id that marks it.
        refuses: Whether the original fails there, so that `counter` takes its place.
    """

    is_total: bool
    counter: tokenizers.Tokenizer
    unknown: int | None
    refuses: bool

    def lost(self, text: str, encoding: tokenizers.Encoding) -> str:
        """Returns the characters without an id, white space apart."""
        ids = np.array(encoding.ids, np.int64)
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        offsets = offsets if self.unknown is None else offsets[ids != self.unknown]
        change = np.zeros(len(text) + 1, np.int64)
        np.add.at(change, offsets[:, 0], 1)
        np.add.at(change, offsets[:, 1], -1)
        missing = np.flatnonzero(change.cumsum()[:-1] == 0)
        return "".join(c for c in (text[i] for i in missing) if not c.isspace())


class Lost:
    """Counts what a split loses, and refuses to lose too much.

    Attributes:
        bytes: The UTF-8 bytes that no id stands for.
    """

    def __init__(self, split: str, size: int, fraction: float) -> None:
        """Takes the split's name, its size in bytes and the share it may lose."""
        self.bytes = 0
        self._split, self._size, self._fraction = split, size, fraction
        self._seen: collections.Counter[str] = collections.Counter()

    def add(self, characters: str) -> None:
        """Counts characters that have no id.

        Raises:
            UsageError: They are too many.
        """
        self._seen.update(characters)
        self.check(self.bytes + len(characters.encode()))

    def check(self, count: int) -> None:
        """Takes the bytes lost so far; raises as `add` does."""
        self.bytes = count
        if count > self._fraction * self._size:
            most = ", ".join(repr(c) for c, _ in self._seen.most_common(5))
            raise UsageError(
                f"the tokenizer has no ids for more than {self._fraction:.4g} of the "
                f"{self._split} split{most and f' (such as {most})'}, so bits/byte "
                "would be too low; choose a tokenizer that falls back to bytes, or "
                "raise config.tokenizer.lost_fraction"
            )


def changes(tokenizer: tokenizers.Tokenizer) -> tuple[str, ...]:
    """Returns the steps that change a text beyond recovery, such as Lowercase."""
    changing = [
        step["type"]
        for step in steps_of(tokenizer.normalizer)
        if step["type"] not in _EXACT
        and not (step["type"] == "Replace" and _writes_spaces(step))
    ]
    dropping = [
        step["type"]
        for step in steps_of(tokenizer.pre_tokenizer)
        if step["type"] in _DROPPING or step.get("behavior") == "Removed"
    ]
    return tuple(dict.fromkeys(changing + dropping))


@functools.lru_cache(maxsize=4)
def coverage(tokenizer: tokenizers.Tokenizer) -> Coverage:
    """Returns how a tokenizer treats what it does not know."""
    if _is_total(tokenizer):
        return Coverage(True, tokenizer, None, False)
    model = json.loads(tokenizer.model.__getstate__())
    unknown, has_default = _unknown(model)
    if unknown is not None:
        return Coverage(False, tokenizer, unknown, False)
    counter, number = _with_unknown(tokenizer)
    return Coverage(False, counter, number, not has_default)


def _unknown(model: dict[str, Any]) -> tuple[int | None, bool]:
    """Returns the unknown id, if any, and whether the model can do without."""
    if isinstance(model["vocab"], list):
        return model["unk_id"], False
    token = model.get("unk_token")
    return model["vocab"].get(token), token is None


def _with_unknown(
    tokenizer: tokenizers.Tokenizer,
) -> tuple[tokenizers.Tokenizer, int]:
    """Returns the tokenizer with one more id, for what is unknown to it."""
    content = json.loads(tokenizer.to_str())
    content["post_processor"] = None
    vocab = content["model"]["vocab"]
    names = {token["id"]: token["content"] for token in content["added_tokens"]}
    end = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
    if isinstance(vocab, list):
        # No score is lower, since the library derives that of unknown text from it.
        score = min((score for _, score in vocab), default=0.0)
        for number in range(len(vocab), end):
            vocab.append([names.get(number, f"{_UNKNOWN}{number}"), score])
        vocab.append([_UNKNOWN, score])
        content["model"]["unk_id"] = end
    else:
        vocab |= {name: number for number, name in names.items()} | {_UNKNOWN: end}
        content["model"]["unk_token"] = _UNKNOWN
    return tokenizers.Tokenizer.from_str(json.dumps(content)), end


def _is_total(tokenizer: tokenizers.Tokenizer) -> bool:
    """Returns whether every text certainly has ids; cheap, and errs towards no."""
    steps = [*steps_of(tokenizer.normalizer), *steps_of(tokenizer.pre_tokenizer)]
    if not all(map(_keeps, steps)):
        return False
    model = tokenizer.model
    if getattr(model, "byte_fallback", False):
        letters: Sequence[str] = [f"<0x{byte:02X}>" for byte in range(256)]
    elif is_byte_level(tokenizer) and type(model).__name__ == "BPE":
        if model.continuing_subword_prefix or model.end_of_word_suffix:
            return False
        letters = pre_tokenizers.ByteLevel.alphabet()
    else:
        return False
    return all(model.token_to_id(letter) is not None for letter in letters)


def _keeps(step: dict[str, Any]) -> bool:
    if step["type"] in ("Split", "Punctuation"):
        return bool(step["behavior"] != "Removed")
    return step["type"] in _KEEPING or bool(
        step["type"] == "Replace" and step["content"]
    )


def _writes_spaces(step: dict[str, Any]) -> bool:
    """Returns whether a replacement only writes spaces as SentencePiece does."""
    return bool(step["pattern"] == {"String": " "} and step["content"] == "\u2581")
