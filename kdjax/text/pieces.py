"""The text of single tokens, for people to read."""

import functools
from collections.abc import Callable, Iterator, Sequence

from kdjax.text.controls import is_byte_level
from kdjax.text.text_tokenizer import TextTokenizer


def make_pieces(tokenizer: TextTokenizer) -> Callable[[int], str]:
    r"""Returns a function from an id to its text in the midst of other text.

    A byte that is no character by itself is written as `\xc3`, and an id that the
    tokenizer does not know as `<123>`; a control token is its own text.

    Example:
        >>> from kdjax.config import TokenizerConfig
        >>> from kdjax.text import train_tokenizer
        >>> tokenizer = train_tokenizer((), TokenizerConfig(kind="bytes"))
        >>> piece = make_pieces(tokenizer)
        >>> [piece(token) for token in (*tokenizer.encode_prompt("a é"), 0, 999)]
        ['a', ' ', '\\xc3', '\\xa9', '<|endoftext|>', '<999>']
    """
    library = tokenizer.tokenizer
    added = library.get_added_tokens_decoder()
    of_letter = _bytes_of_letters() if is_byte_level(library) else {}
    anchor = library.encode("a", add_special_tokens=False).ids
    before = library.decode(anchor, skip_special_tokens=False)

    @functools.cache
    def piece(token: int) -> str:
        spelled = library.id_to_token(token)
        if spelled is None:
            return f"<{token}>"
        if token in added:
            return spelled
        if of_letter and all(letter in of_letter for letter in spelled):
            content = bytes(of_letter[letter] for letter in spelled)
            return content.decode("utf-8", "backslashreplace")
        text = library.decode([*anchor, token], skip_special_tokens=False)
        found = text.removeprefix(before)
        is_whole = text.startswith(before) and "\ufffd" not in found
        return found if found and is_whole else spelled

    return piece


def read_along(tokenizer: TextTokenizer, ids: Sequence[int]) -> Iterator[str]:
    """Yields the text of each id of a document, in its context.

    A character whose bytes span several ids comes with the last of them, as in
    `TextTokenizer.make_stream`; control tokens are spelled out.
    """
    added = tokenizer.tokenizer.get_added_tokens_decoder()
    stream = tokenizer.make_stream(())
    for token in ids:
        text = stream(token)
        yield added[token].content if token in added else text


def _bytes_of_letters() -> dict[str, int]:
    """Returns the byte that each letter of GPT-2's byte-level alphabet stands for."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    return letters | {chr(0x100 + i): byte for i, byte in enumerate(others)}
