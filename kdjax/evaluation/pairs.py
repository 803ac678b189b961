"""Where a text ends and its continuation begins, in ids.

As in EleutherAI's lm-evaluation-harness, so that results compare: both are encoded
together and divided after as many ids as the context has alone, because a tokenizer may
encode a continuation differently when it stands alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kdjax.core.errors import UsageError
from kdjax.text import SpecialTokens, TextTokenizer


class Pair(NamedTuple):
    """The ids of a context and of what follows it; neither is empty."""

    context: list[int]
    continuation: list[int]


def encode_pairs(
    tokenizer: TextTokenizer,
    texts: Sequence[tuple[str, str]],
    special_tokens: SpecialTokens = "text",
) -> list[Pair]:
    """Returns the ids of contexts and continuations.

    White space at the end of a context is moved to the continuation. A token that spans
    both belongs to the continuation if nothing else would be left of it.

    Args:
        tokenizer: The tokenizer; its prefix comes before every context.
        texts: Pairs of (context, continuation). What has no context follows the BOS
            token or, if there is none, the end-of-text token.
        special_tokens: Whether control tokens in the texts are text or are parsed.

    Raises:
        UsageError: The tokenizer has no ids for a pair.
    """
    moved = [_moved(*pair) for pair in texts]
    wholes = [context + continuation for context, continuation in moved]
    # Each context once: all choices of a question share it.
    contexts = list(dict.fromkeys(context for context, _ in moved if context))
    encoded = list(_encode(tokenizer, [*wholes, *contexts], special_tokens))
    known = dict(zip(contexts, encoded[len(wholes) :], strict=True))
    pairs = []
    for (context, continuation), ids in zip(moved, encoded, strict=False):
        if not ids:
            raise UsageError(f"the tokenizer has no ids for {continuation[:40]!r}")
        split = min(len(known.get(context, ())), len(ids) - 1)
        lead = list(tokenizer.prefix)
        if not split and not lead:
            lead = [first_token(tokenizer)]
        if lead and ids[: len(lead)] == lead and len(ids) > len(lead):
            # The text spells the token itself; it is not repeated.
            lead, split = [], max(split, len(lead))
        pairs.append(Pair(lead + ids[:split], ids[split:]))
    return pairs


def encode_prompt(
    tokenizer: TextTokenizer, text: str, special_tokens: SpecialTokens = "text"
) -> list[int]:
    """Returns the ids of a prompt; the prefix is not repeated if the text spells it."""
    (ids,) = _encode(tokenizer, [text], special_tokens)
    lead = list(tokenizer.prefix)
    if ids[: len(lead)] == lead:
        lead = []
    return lead + ids or [first_token(tokenizer)]


def first_token(tokenizer: TextTokenizer) -> int:
    """Returns the id that a text without any context follows."""
    if tokenizer.prefix:
        return tokenizer.prefix[0]
    bos = tokenizer.chat.bos_token
    found = tokenizer.tokenizer.token_to_id(bos) if bos else None
    return tokenizer.end_of_text if found is None else found


def _encode(
    tokenizer: TextTokenizer, texts: Sequence[str], special_tokens: SpecialTokens
) -> list[list[int]]:
    found = tokenizer.encoder.texts(texts, special_tokens)
    return [ids.tolist() for ids in found]


def _moved(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation
