"""The ids that a tokenizer puts before a text, and who decides that it does."""

from typing import Literal

import tokenizers
from tokenizers import processors

from kdjax.core.errors import UsageError

Bos = Literal["auto", "always", "never"]


def find_prefix(tokenizer: tokenizers.Tokenizer, source: str) -> tuple[int, ...]:
    """Returns the ids put before a text, found by encoding some text.

    Raises:
        UsageError: One of them is not in the vocabulary; `source` names the file.
    """
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    prefix = _around(tokenizer)[0]
    if unknown := set(prefix) - set(vocab.values()):
        raise UsageError(
            f"{source} begins texts with the id {unknown.pop()}, which is not "
            "in its vocabulary"
        )
    return prefix


def contradiction(
    tokenizer: tokenizers.Tokenizer, stated: bool | None, source: str
) -> str:
    """Returns how the files of a tokenizer contradict each other, or an empty string.

    Args:
        tokenizer: The tokenizer.
        stated: `add_bos_token` in its tokenizer_config.json, if it is there.
        source: Names the tokenizer's file.
    """
    begins = bool(_around(tokenizer)[0])
    if stated is None or stated == begins:
        return ""
    return (
        f"{source} {'begins' if begins else 'does not begin'} texts with a BOS token, "
        f"but tokenizer_config.json has add_bos_token = {str(stated).lower()}"
    )


def with_beginning(
    tokenizer: tokenizers.Tokenizer, bos: Bos, bos_token: str, source: str
) -> tokenizers.Tokenizer:
    """Returns a tokenizer with which every text begins with the BOS token, or none.

    Args:
        tokenizer: The tokenizer; it is returned or, if it does otherwise, copied.
        bos: "auto" leaves it as it is.
        bos_token: The token, if known.
        source: Names the file in error messages.

    Raises:
        UsageError: The token is needed and not known.
    """
    before, after = _around(tokenizer)
    if bos == "auto" or (bos == "always") == bool(before):
        return tokenizer
    first = tokenizer.token_to_id(bos_token) if bos_token else None
    if bos == "always" and first is None:
        raise UsageError(
            f"{source} names no bos_token, so config.tokenizer.bos = 'always' has "
            "nothing to begin texts with; set it to 'never'"
        )
    names = [] if first is None or bos == "never" else [(bos_token, first)]
    ends = [(str(tokenizer.id_to_token(number)), number) for number in after]
    changed = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    changed.post_processor = processors.TemplateProcessing(
        single=[*(name for name, _ in names), "$A", *(name for name, _ in ends)],
        special_tokens=names + ends,
    )
    return changed


def _around(tokenizer: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the ids put before and after a text."""
    for text in ("a", *tokenizer.get_vocab(with_added_tokens=True)):
        try:
            encoding = tokenizer.encode(text)
        # The library raises bare Exception for text that it has no ids for.
        except Exception:
            continue
        mask = encoding.special_tokens_mask
        if 0 in mask:
            last = len(mask) - mask[::-1].index(0)
            return tuple(encoding.ids[: mask.index(0)]), tuple(encoding.ids[last:])
    return (), ()
