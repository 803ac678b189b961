"""Rebuilds the tokenizer stored in a GGUF file."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from etils import epath
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from kdjax.core.errors import UsageError
from kdjax.text.chat import Chat

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5  # token types
_LONGEST = 1024  # characters per token, since every split of a token is tried
_SPACE = "\u2581"  # how SentencePiece writes a space
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The longest run of digits in a token, for tokenizers that use the pattern above.
_DIGITS = {"llama-bpe": 3, "qwen2": 1}
WORD_PATTERNS = ("gpt-2", "smollm", *_DIGITS)  # tokenizer.ggml.pre
# The keys below "tokenizer.ggml." that are read or only name a token's role.
_ROLE = r"(bos|eos|eot|eom|unknown|seperator|padding|cls|mask|prefix|suffix|middle)"
_USED = re.compile(
    r"model|pre|tokens|token_type|scores|merges|add_(bos_token|eos_token|space_prefix)"
    rf"|({_ROLE}|fim_(pre|suf|mid|pad|rep|sep))_token_id"
)
_FLAGS = ("add_bos_token", "add_eos_token", "add_space_prefix")
# Those of other kinds of tokenizer, with the values that mean nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_sep_token": (False,),
    "normalizer.lowercase": (False,),
    "normalizer.strip_accents": (False,),
    "precompiled_charsmap": ([],),
    "remove_extra_whitespaces": (False,),
    "suppress_tokens": ([],),
    "token_type_count": (0, 1),
}


def read_gguf_tokenizer(
    meta: Mapping[str, Any], path: epath.Path
) -> tuple[tokenizers.Tokenizer, Chat]:
    """Returns the tokenizer in a GGUF file, and its chat template.

    Args:
        meta: The metadata in the file's header.
        path: Names the file in error messages.

    Raises:
        UsageError: The file is damaged, or kdjax cannot rebuild its kind of tokenizer.
    """
    kind = meta.get("tokenizer.ggml.model")
    _check_keys(meta, path)
    tokens = _list(meta, "tokens", str, path)
    types = _list(meta, "token_type", int, path, len(tokens))
    if kind == "gpt2":
        tokenizer = _byte_level(meta, _vocab(tokens, types), path)
    elif kind == "llama":
        tokenizer = _sentence_piece(meta, tokens, types, path)
    else:
        raise UsageError(
            f"{path}: its tokenizer is {str(kind)[:40]!r}; kdjax rebuilds 'gpt2' and "
            "'llama'"
        )
    for wanted, is_special in (((_CONTROL, _UNKNOWN), True), ((_USER_DEFINED,), False)):
        added = [
            AddedToken(token, special=is_special, normalized=False)
            for token, found in zip(tokens, types, strict=True)
            if found in wanted and token
        ]
        tokenizer.add_tokens(added)
    _begin(tokenizer, meta, tokens)
    template = meta.get("tokenizer.chat_template", "")
    roles = (("pad_token", "padding"), ("unk_token", "unknown"))
    named = ((role, _token(meta, name, tokens)) for role, name in roles)
    return tokenizer, Chat(
        template if isinstance(template, str) else "",
        _token(meta, "bos", tokens),
        _token(meta, "eot", tokens) or _token(meta, "eos", tokens),
        tuple((role, token) for role, token in named if token),
    )


def _check_keys(meta: Mapping[str, Any], path: epath.Path) -> None:
    """Raises if a key could change a text's ids in a way that kdjax does not know."""
    for key, value in meta.items():
        name = key.removeprefix("tokenizer.ggml.")
        if name == key or _USED.fullmatch(name):
            continue
        if value not in _NEUTRAL.get(name, ()):
            known = "must be empty or false for kdjax"
            rule = known if name in _NEUTRAL else "is a key that kdjax does not know"
            raise UsageError(f"{path}: {key[:80]!r} {rule}")
    for name in _FLAGS:
        value = meta.get(f"tokenizer.ggml.{name}", False)
        is_bytes = meta.get("tokenizer.ggml.model") == "gpt2"
        if not isinstance(value, bool):
            raise UsageError(f"{path}: tokenizer.ggml.{name} must be true or false")
        if value and is_bytes and name == "add_space_prefix":
            raise UsageError(
                f"{path}: tokenizer.ggml.{name} must be false for a byte-level "
                "tokenizer"
            )


def _begin(
    tokenizer: tokenizers.Tokenizer, meta: Mapping[str, Any], tokens: Sequence[str]
) -> None:
    """Makes texts begin with the BOS token where the model expects it.

    Files that do not say get llama.cpp's default.
    """
    is_usual = "llama" in (
        meta.get("tokenizer.ggml.model"),
        str(meta.get("tokenizer.ggml.pre")).removesuffix("-bpe"),
    )
    first = meta.get("tokenizer.ggml.bos_token_id")
    name = _token(meta, "bos", tokens)
    if name and meta.get("tokenizer.ggml.add_bos_token", is_usual) is True:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[name, "$A"], special_tokens=[(name, first)]
        )


def _token(meta: Mapping[str, Any], name: str, tokens: Sequence[str]) -> str:
    """Returns the token to which the metadata assign a role, or an empty string."""
    number = meta.get(f"tokenizer.ggml.{name}_token_id")
    if type(number) is not int or not 0 <= number < len(tokens):
        return ""
    return tokens[number]


def _list(
    meta: Mapping[str, Any],
    name: str,
    kind: type,
    path: epath.Path,
    length: int | None = None,
) -> Sequence[Any]:
    """Returns a list in the metadata after checking its length and elements."""
    found = meta.get(f"tokenizer.ggml.{name}")
    if (
        not isinstance(found, list)
        or not all(isinstance(item, kind) for item in found)
        or length not in (None, len(found))
    ):
        raise UsageError(f"{path}: tokenizer.ggml.{name} is missing or damaged")
    return found


def _vocab(tokens: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    """Returns ids by token, without those that only pad the embedding."""
    return {
        token: number
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind != _UNUSED or not re.fullmatch(r"\[PAD\d+\]", token)
    }


def _byte_level(
    meta: Mapping[str, Any], vocab: dict[str, int], path: epath.Path
) -> tokenizers.Tokenizer:
    """Returns the byte-level BPE of GPT-2, Llama 3, Qwen and SmolLM."""
    words = _word_pattern(meta)
    if words not in WORD_PATTERNS:
        raise UsageError(
            f"{path}: kdjax does not know how its tokenizer splits words "
            f"(tokenizer.ggml.pre = {words[:40]!r}); use the model's tokenizer.json"
        )
    whole = words == "llama-bpe"  # some of its tokens cannot be reached by merges
    tokenizer = _bpe(path, vocab, _merges(meta, path), ignore_merges=whole)
    tail = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if words in _DIGITS:
        pattern = Regex(_WORDS % _DIGITS[words])
        split = pre_tokenizers.Split(pattern, behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, tail])
    elif words == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, plain])
    else:
        tokenizer.pre_tokenizer = plain
    if words == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(meta: Mapping[str, Any], path: epath.Path) -> list[tuple[str, ...]]:
    """Returns the merges that the file lists."""
    return [tuple(merge.split(" ", 1)) for merge in _list(meta, "merges", str, path)]


def _bpe(
    path: epath.Path,
    vocab: dict[str, int],
    merges: Sequence[Any],  # of pairs; the library checks them
    **options: Any,
) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    # The library raises bare Exception for merges that do not match the tokens.
    except Exception as error:
        raise UsageError(f"{path}: its tokenizer is damaged ({error})") from None


def _word_pattern(meta: Mapping[str, Any]) -> str:
    """Returns the word pattern's name; if unspecified, GPT-2's is inferred."""
    words = str(meta.get("tokenizer.ggml.pre", "default"))
    is_gpt2 = meta.get("general.architecture") == "gpt2"
    return "gpt-2" if words == "default" and is_gpt2 else words


def _sentence_piece(
    meta: Mapping[str, Any],
    tokens: Sequence[str],
    types: Sequence[int],
    path: epath.Path,
) -> tokenizers.Tokenizer:
    """Returns the SentencePiece BPE of Llama 2, Mistral and Gemma.

    SentencePiece merges the neighbours whose union scores highest; the library expects
    that order as a list of merges. Files that were made of a tokenizer.json have the
    list, and scores that need not agree with it.
    """
    scores = _list(meta, "scores", float, path, len(tokens))
    if max(map(len, tokens), default=0) > _LONGEST:
        raise UsageError(f"{path}: tokenizer.ggml.tokens is damaged")
    vocab = _vocab(tokens, types)
    if "tokenizer.ggml.merges" in meta:
        merges: Sequence[tuple[str, ...]] = _merges(meta, path)
    else:
        ranked = sorted(
            (-scores[number], vocab[token[:cut]], vocab[token[cut:]])
            for token, number in vocab.items()
            for cut in range(1, len(token))
            if token[:cut] in vocab and token[cut:] in vocab
        )
        merges = [(tokens[left], tokens[right]) for _, left, right in ranked]
    unknown = [t for t, found in zip(tokens, types, strict=True) if found == _UNKNOWN]
    tokenizer = _bpe(
        path,
        vocab,
        merges,
        unk_token=unknown[0] if unknown else None,
        fuse_unk=True,
        byte_fallback=True,
    )
    has_prefix = bool(meta.get("tokenizer.ggml.add_space_prefix", True))
    replace = normalizers.Replace(" ", _SPACE)
    start: list[Any] = [normalizers.Prepend(_SPACE)] if has_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*start, replace])
    end: list[Any] = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *end,
        ]
    )
    return tokenizer
