"""Describes a tokenizer in the metadata of a GGUF file."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import tokenizers
from etils import epath
from tokenizers import pre_tokenizers

from kdjax.core.errors import UsageError
from kdjax.text.gguf_tokenizer import WORD_PATTERNS, read_gguf_tokenizer
from kdjax.text.tokenizer import TextTokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # types
_KEY = "tokenizer.ggml."
_AT_SPACES = {  # Gemma's
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}


def gguf_tokenizer_metadata(
    tokenizer: TextTokenizer | None, size: int
) -> dict[str, Any]:
    """Returns the metadata from which `read_gguf_tokenizer` rebuilds a tokenizer.

    Args:
        tokenizer: The tokenizer; None: the metadata say that there is none.
        size: The model's number of ids; more than the tokenizer's are marked unused.

    Raises:
        UsageError: GGUF cannot express the tokenizer, or it has too many ids.
    """
    if tokenizer is None:
        return {f"{_KEY}model": "none"}
    if tokenizer.vocab_size > size:
        raise UsageError(
            f"the tokenizer has {tokenizer.vocab_size} ids and the model {size}; use "
            "the model's own tokenizer"
        )
    content = json.loads(tokenizer.tokenizer.to_str())
    model = content["model"]
    if model["type"] != "BPE":
        _refuse([f"model ({model['type']})"])
    metadata = _roles(tokenizer)
    if model.get("byte_fallback"):
        metadata |= _sentence_piece(content, tokenizer.tokenizer, size)
        return _checked(tokenizer.tokenizer, content, metadata)
    metadata |= _byte_level(content, tokenizer.tokenizer, size)
    return _checked(tokenizer.tokenizer, content, metadata)


def _refuse(parts: Sequence[str]) -> NoReturn:
    raise UsageError(
        f"GGUF cannot hold this tokenizer: it differs in its {', '.join(parts)}; "
        "export the model to a directory"
    )


def _roles(tokenizer: TextTokenizer) -> dict[str, Any]:
    """Returns the keys that say which token begins and ends what."""
    end, chat, prefix = tokenizer.end_of_text, tokenizer.chat, tokenizer.prefix
    if len(prefix) > 1:
        _refuse([f"beginning of texts ({len(prefix)} tokens)"])
    first = tokenizer.tokenizer.token_to_id(chat.bos_token)
    if prefix and first not in (None, prefix[0]):
        _refuse(["beginning of texts (not the chat template's bos_token)"])
    if not prefix and first is None and not chat.template:
        first = end  # else llama.cpp takes some other token
    last = tokenizer.tokenizer.token_to_id(chat.eos_token)
    ids = {
        "bos_token_id": prefix[0] if prefix else first,
        "eos_token_id": end,
        "eot_token_id": None if last == end else last,
        "padding_token_id": end,
    }
    found: dict[str, Any] = {
        _KEY + name: number for name, number in ids.items() if number is not None
    }
    found |= {f"{_KEY}add_bos_token": bool(prefix), f"{_KEY}add_eos_token": False}
    return found | ({"tokenizer.chat_template": chat.template} if chat.template else {})


def _tokens(
    content: Mapping[str, Any], tokenizer: tokenizers.Tokenizer, size: int
) -> dict[str, Any]:
    """Returns the tokens and their types; ids without a token are marked unused."""
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [_UNUSED] * size
    for token, number in tokenizer.get_vocab(with_added_tokens=True).items():
        tokens[number], types[number] = token, _NORMAL
    for added in content["added_tokens"]:
        types[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    return {f"{_KEY}tokens": tokens, f"{_KEY}token_type": types}


def _byte_level(
    content: Mapping[str, Any], tokenizer: tokenizers.Tokenizer, size: int
) -> dict[str, Any]:
    merges = content["model"]["merges"]
    if any(" " in part for merge in merges for part in merge):
        _refuse(["merges (of tokens with spaces)"])
    return {
        f"{_KEY}model": "gpt2",
        f"{_KEY}pre": _word_pattern(content),
        **_tokens(content, tokenizer, size),
        f"{_KEY}merges": [" ".join(merge) for merge in merges],
    }


def _sentence_piece(
    content: Mapping[str, Any], tokenizer: tokenizers.Tokenizer, size: int
) -> dict[str, Any]:
    """Returns the keys of a SentencePiece BPE: scores in the order of the merges."""
    found = _tokens(content, tokenizer, size)
    types = found[f"{_KEY}token_type"]
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    for number in range(256):
        if (token := f"<0x{number:02X}>") in vocab:
            types[vocab[token]] = _BYTE
    scores = [0.0] * size
    for token, number in vocab.items():
        if types[number] == _NORMAL and len(token) == 1:
            scores[number] = -float(len(merges) + number)
    for rank, merge in reversed(list(enumerate(merges))):
        scores[vocab["".join(merge)]] = -float(rank)
    unknown = content["model"]["unk_token"]
    if unknown is not None:
        types[vocab[unknown]] = _UNKNOWN
        found[f"{_KEY}unknown_token_id"] = vocab[unknown]
    has_prefix = '"Prepend"' in json.dumps(content["normalizer"])
    return {
        f"{_KEY}model": "llama",
        f"{_KEY}pre": "default",
        **found,
        f"{_KEY}scores": scores,
        f"{_KEY}add_space_prefix": has_prefix,
    }


def _word_pattern(content: Mapping[str, Any]) -> str:
    """Returns the name of the pattern that splits texts as a tokenizer does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    for name in WORD_PATTERNS:
        tiny = {
            f"{_KEY}model": "gpt2",
            f"{_KEY}pre": name,
            f"{_KEY}tokens": alphabet,
            f"{_KEY}token_type": [_NORMAL] * len(alphabet),
            f"{_KEY}merges": [],
        }
        rebuilt, _ = read_gguf_tokenizer(tiny, epath.Path(name))
        if _splitting(json.loads(rebuilt.to_str())) == _splitting(content):
            return name
    _refuse(["pattern of words (pre_tokenizer, normalizer or ignore_merges)"])


def _splitting(content: Mapping[str, Any]) -> list[Any]:
    """Returns what decides on the words of a text, before merges."""
    normalizer, splits = content["normalizer"], content["pre_tokenizer"]
    return [_plain(normalizer), _plain(splits), content["model"]["ignore_merges"]]


def _checked(
    tokenizer: tokenizers.Tokenizer,
    content: Mapping[str, Any],
    metadata: dict[str, Any],
) -> dict[str, Any]:
    """Returns the metadata after rebuilding the tokenizer from them."""
    rebuilt, _ = read_gguf_tokenizer(metadata, epath.Path("the GGUF file"))
    one = _identity(tokenizer, content)
    other = _identity(rebuilt, json.loads(rebuilt.to_str()))
    if differing := [part for part, value in one.items() if value != other[part]]:
        _refuse(differing)
    return metadata


def _identity(
    tokenizer: tokenizers.Tokenizer, content: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns everything that determines a text's ids and its decoding, by part."""
    model = content["model"]
    is_complete = set(pre_tokenizers.ByteLevel.alphabet()) <= model["vocab"].keys()
    is_whole = is_complete and not model["byte_fallback"]
    decoder = content["decoder"] or {}
    is_bytes = decoder.get("type") == "ByteLevel"
    # Once a normalizer has replaced the spaces, splitting at them does nothing.
    is_unsplit = model["byte_fallback"] and content["pre_tokenizer"] == _AT_SPACES
    flags = ["dropout", "continuing_subword_prefix", "end_of_word_suffix"]
    # No text is unknown to a byte-level tokenizer.
    flags += [] if is_whole else ["unk_token", "fuse_unk"]
    added = [
        {
            key: value
            for key, value in token.items()
            if key != "normalized" or content["normalizer"]
        }
        for token in content["added_tokens"]
    ]
    return {
        "tokens": tokenizer.get_vocab(with_added_tokens=True),
        "merges": model["merges"],
        "options": {flag: model[flag] or None for flag in flags},
        "normalizer": _plain(content["normalizer"]),
        "pre_tokenizer": None if is_unsplit else _plain(content["pre_tokenizer"]),
        # A byte-level decoder ignores its options.
        "decoder": "ByteLevel" if is_bytes else _plain(decoder),
        "added tokens": sorted(added, key=lambda token: token["id"]),
    }


def _plain(part: Any) -> Any:
    """Returns a part of a tokenizer.json without what does not change ids or texts."""
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind == "Sequence":
        (name,) = part.keys() - {"type"}
        parts = [_plain(item) for item in part[name]]
        return parts[0] if len(parts) == 1 else [kind, *parts]
    if kind == "ByteLevel":
        return {key: part[key] for key in part.keys() - {"trim_offsets"}}
    return part
