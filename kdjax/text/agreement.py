"""Whether two tokenizers mean the same by the same ids."""

import tokenizers

from kdjax.text.tokenizer import TextTokenizer, TokenizerFile


def same_ids(
    one: TextTokenizer | TokenizerFile, other: TextTokenizer | TokenizerFile
) -> bool:
    """Returns whether ids mean the same to two tokenizers.

    How text is split, and what is put around it, is one tokenizer's affair: that which
    makes the rows. Either may have added tokens that the other has no id for.
    """
    first, second = one.tokenizer, other.tokenizer
    return _agrees(first, second) and _agrees(second, first)


def _agrees(one: tokenizers.Tokenizer, other: tokenizers.Tokenizer) -> bool:
    """Returns whether the other contradicts no token, and lacks added ones at most."""
    ids = other.get_vocab(with_added_tokens=True)
    taken, added = set(ids.values()), one.get_added_tokens_decoder()
    return all(
        ids.get(token) == number
        or (number in added and token not in ids and number not in taken)
        for token, number in one.get_vocab(with_added_tokens=True).items()
    )
