"""Whether two tokenizers assign the same ids to the same tokens."""

import tokenizers

from kdjax.text.tokenizer import TextTokenizer, TokenizerFile


def same_ids(
    one: TextTokenizer | TokenizerFile, other: TextTokenizer | TokenizerFile
) -> bool:
    """Returns whether ids mean the same tokens to two tokenizers.

    How they split text and what they add around it may differ, because only one of them
    encodes the rows. Either may have added tokens that the other has no id for.
    """
    first, second = one.tokenizer, other.tokenizer
    return _agrees(first, second) and _agrees(second, first)


def _agrees(one: tokenizers.Tokenizer, other: tokenizers.Tokenizer) -> bool:
    """Returns whether no id conflicts and the other lacks only added tokens."""
    ids = other.get_vocab(with_added_tokens=True)
    taken, added = set(ids.values()), one.get_added_tokens_decoder()
    return all(
        ids.get(token) == number
        or (number in added and token not in ids and number not in taken)
        for token, number in one.get_vocab(with_added_tokens=True).items()
    )
