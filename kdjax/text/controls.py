"""Control tokens in a text: told from those that a program puts there.

A tokenizer has tokens that no text should reach, such as `</s>` or `<|im_start|>`. Its
library finds them wherever a text spells them. Here a copy of the tokenizer spells them
in another way, which no text knows, and so takes the text's own for what it is: text.
"""

import functools
import json
import re
import secrets
from collections.abc import Iterable
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, pre_tokenizers

from kdjax.core.errors import UsageError

_NONCE = secrets.token_hex(8)  # ids do not depend on it, and no text can know it
_OPEN, _SHUT = f"\ue000{_NONCE}\ue001", f"\ue001{_NONCE}\ue000"


class Masked(NamedTuple):
    """A tokenizer that gives its control tokens' ids to other spellings only.

    Attributes:
        tokenizer: The tokenizer; every id means what it meant.
        spellings: The new spelling of each control token.
    """

    tokenizer: tokenizers.Tokenizer
    spellings: dict[str, str]


def control_tokens(
    tokenizer: tokenizers.Tokenizer, also: Iterable[str] = ()
) -> frozenset[str]:
    """Returns the special tokens of a tokenizer, and others that are named.

    Tokens that ordinary text consists of are none, even if a file calls them special:
    some models pad with "!".
    """
    added = tokenizer.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    named = (special | set(also)) - {""}
    return frozenset(named - _ordinary(tokenizer, named))


def make_pattern(
    tokenizer: tokenizers.Tokenizer, controls: Iterable[str]
) -> re.Pattern[str]:
    """Returns what finds control tokens in a text; never too few of them."""
    longest_first = sorted(controls, key=lambda token: (-len(token), token))
    added = tokenizer.get_added_tokens_decoder().values()
    # Such a token is sought in the normalised text, which may be in lower case.
    is_loose = tokenizer.normalizer is not None and any(
        token.normalized for token in added if token.content in longest_first
    )
    spelled = "|".join(map(re.escape, longest_first)) or "(?!)"
    return re.compile(spelled, re.IGNORECASE if is_loose else 0)


@functools.lru_cache(maxsize=4)
def mask(tokenizer: tokenizers.Tokenizer, controls: frozenset[str]) -> Masked:
    """Returns the tokenizer with new spellings for its control tokens.

    Flags of the library do not suffice: a Unigram or a word-level model has `</s>`
    among its pieces and finds it in plain text.

    Raises:
        UsageError: The library assigns other ids to the new spellings.
    """
    spellings = {
        token: f"{_OPEN}{n}{_SHUT}" for n, token in enumerate(sorted(controls))
    }
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token["content"] = spellings.get(token["content"], token["content"])
    content["post_processor"] = None  # it names tokens, and nobody asks it
    _rename(content["model"], spellings)
    masked = tokenizers.Tokenizer.from_str(json.dumps(content))
    for token, spelling in spellings.items():
        if masked.token_to_id(spelling) != tokenizer.token_to_id(token):
            raise UsageError(
                f"the tokenizer cannot be kept from reading {token!r} as a control "
                "token; set config.data.special_tokens = 'parse'"
            )
    return Masked(masked, spellings)


def _rename(model: dict[str, Any], spellings: dict[str, str]) -> None:
    """Renames pieces of a model, as its tokenizer.json describes it."""
    vocab = model["vocab"]
    if isinstance(vocab, list):
        model["vocab"] = [[spellings.get(t, t), score] for t, score in vocab]
        return
    model["vocab"] = {spellings.get(t, t): number for t, number in vocab.items()}
    if model.get("unk_token") in spellings:
        model["unk_token"] = spellings[model["unk_token"]]
    if "merges" in model:
        pairs = (
            tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m)
            for m in model["merges"]
        )
        prefix = len(model.get("continuing_subword_prefix") or "")
        model["merges"] = [
            [left, right]
            for left, right in pairs
            if not {left, right, left + right[prefix:]} & spellings.keys()
        ]


def _ordinary(tokenizer: tokenizers.Tokenizer, names: set[str]) -> set[str]:
    """Returns those of some tokens that text without control tokens consists of.

    They are the letters from which the model builds all others and, where letters stand
    for bytes, the pieces that stand for another text, as `Ċ` does for a line break.
    """
    model = tokenizer.model
    if getattr(model, "byte_fallback", False):
        return set()
    pieces = {name for name in names if model.token_to_id(name) is not None}
    if not is_byte_level(tokenizer):
        return {piece for piece in pieces if len(piece) == 1}
    letters = set(pre_tokenizers.ByteLevel.alphabet())
    others = {letter for letter in letters if ord(letter) > 255}
    return {
        piece
        for piece in pieces
        if piece in letters or (others & set(piece) and letters >= set(piece))
    }


def is_byte_level(tokenizer: tokenizers.Tokenizer) -> bool:
    """Returns whether the model sees bytes, each written as a letter."""
    steps = steps_of(tokenizer.pre_tokenizer) + steps_of(tokenizer.normalizer)
    return any(step["type"] == "ByteLevel" for step in steps)


def steps_of(stage: Any) -> list[dict[str, Any]]:
    """Returns the steps of a normalizer or pre-tokenizer as its file describes them."""
    if stage is None:
        return []
    return list(_flatten(json.loads(stage.__getstate__())))


def _flatten(step: dict[str, Any]) -> Iterable[dict[str, Any]]:
    if step["type"] == "Sequence":
        for inner in step.get("normalizers", step.get("pretokenizers", ())):
            yield from _flatten(inner)
    else:
        yield step


def with_special(
    tokenizer: tokenizers.Tokenizer, names: Iterable[str]
) -> tokenizers.Tokenizer:
    """Returns a tokenizer that finds tokens of its vocabulary in templates.

    It is the same one unless some of them are not special in it. Those that ordinary
    text consists of stay what they are; see `control_tokens`.
    """
    added = tokenizer.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    known = special | _ordinary(tokenizer, set(names))
    new = [
        AddedToken(name, special=True, normalized=False)
        for name in dict.fromkeys(names)
        if name not in known and tokenizer.token_to_id(name) is not None
    ]
    if not new:
        return tokenizer
    changed = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    changed.add_special_tokens(new)
    return changed
