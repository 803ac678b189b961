"""Texts, prompts and messages to ids."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import tokenizers

from kdjax.core.errors import UsageError
from kdjax.text.byte_table import byte_table
from kdjax.text.chat import Chat
from kdjax.text.controls import control_tokens, make_pattern, mask
from kdjax.text.coverage import Lost, coverage

SpecialTokens = Literal["text", "parse"]
# Put around control tokens in a message while the chat template runs; the template may
# cut and join what is between them.
_BEGIN, _END = "\ue002\ue003", "\ue003\ue002"


class Encoder(NamedTuple):
    """Encodes with one tokenizer.

    Attributes:
        tokenizer: The library's object.
        controls: The tokens that no text should reach.
        pattern: Finds them.
    """

    tokenizer: tokenizers.Tokenizer
    controls: frozenset[str]
    pattern: re.Pattern[str]

    def texts(
        self,
        texts: Sequence[str],
        special_tokens: SpecialTokens = "text",
        lost: Lost | None = None,
    ) -> list[np.ndarray]:
        """Returns the ids of each text; uses all cores.

        Args:
            texts: The texts.
            special_tokens: Whether control tokens in them are text or are parsed.
            lost: Counts what has no id.
        """
        table = self._byte_table()
        seeks = special_tokens == "text" or table is not None
        found = [seeks and self.has_controls(text) for text in texts]
        plain = [text for text, has in zip(texts, found, strict=True) if not has]
        spelled = [text for text, has in zip(texts, found, strict=True) if has]
        if table is None:
            ids = iter(_encode(self.tokenizer, plain, lost))
        else:
            ids = (table[np.frombuffer(text.encode(), np.uint8)] for text in plain)
        if not spelled:
            return list(ids)
        parsing = self.tokenizer
        if special_tokens == "text":
            parsing = mask(self.tokenizer, self.controls).tokenizer
        others = iter(_encode(parsing, spelled, lost))
        return [next(others if has else ids) for has in found]

    def _byte_table(self) -> np.ndarray | None:
        """Returns the ids of bytes, if texts without control tokens have no others."""
        table = byte_table(self.tokenizer)
        if table is None:
            return None
        added = self.tokenizer.get_added_tokens_decoder().values()
        return table if {token.content for token in added} <= self.controls else None

    def count_lost(self, texts: Sequence[str], lost: Lost) -> None:
        """Counts what of some texts has no id; uses all cores.

        Raises:
            UsageError: It is too much.
        """
        cover = coverage(self.tokenizer)
        if not cover.is_total:
            found = cover.counter.encode_batch(texts, add_special_tokens=False)
            for text, encoding in zip(texts, found, strict=True):
                lost.add(cover.lost(text, encoding))

    def has_controls(self, text: str) -> bool:
        """Returns whether a text spells control tokens."""
        return self.pattern.search(text) is not None

    def prompt(self, text: str, special_tokens: SpecialTokens = "text") -> list[int]:
        """Returns the ids of a prompt, as `texts` does.

        Raises:
            UsageError: It is not Unicode, or some of it has no id.
        """
        check_unicode(text)
        ids: list[int] = self.texts([text], special_tokens)[0].tolist()
        _check_known(self.tokenizer, text)
        return ids

    def message(self, message: str, chat: Chat) -> list[int]:
        """Returns the ids of a message in its chat template.

        The template's control tokens are parsed, those in the message are text.

        Raises:
            UsageError: As for a prompt, or the template fails.
        """
        check_unicode(message)
        writer = self._with_tokens_of(chat.template)
        if not writer.has_controls(message):
            # The template has already inserted the special tokens.
            return writer.prompt(chat.render(message), "parse")
        inside = writer.pattern.sub(lambda m: f"{_BEGIN}{m[0]}{_END}", _unmark(message))
        masked = mask(writer.tokenizer, writer.controls)

        def respell(found: re.Match[str]) -> str:
            if found["text"]:
                return found["text"]
            return masked.spellings.get(found[0], found[0])

        tokens = writer.pattern
        split = re.compile(
            f"{_BEGIN}(?P<text>{tokens.pattern}){_END}|{tokens.pattern}", tokens.flags
        )
        text = _unmark(split.sub(respell, chat.render(inside)))
        _check_known(masked.tokenizer, text)
        ids: list[int] = _encode(masked.tokenizer, [text], None)[0].tolist()
        return ids

    def _with_tokens_of(self, template: str) -> "Encoder":
        """Returns an encoder whose controls include other added tokens of a template.

        Such as `<think>`, which some tokenizers do not call special. Those of white
        space are text anywhere.
        """
        added = self.tokenizer.get_added_tokens_decoder().values()
        more = (token.content for token in added)
        written = (t for t in more if t in template and not t.isspace())
        return make_encoder(self.tokenizer, self.controls | set(written))


def make_encoder(tokenizer: tokenizers.Tokenizer, also: Iterable[str] = ()) -> Encoder:
    """Returns an encoder for which further tokens are control tokens."""
    controls = control_tokens(tokenizer, also)
    return Encoder(tokenizer, controls, make_pattern(tokenizer, controls))


def check_unicode(text: str) -> None:
    """Raises unless a prompt can be encoded as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the prompt {text!r} is not valid UTF-8") from None


def _encode(
    tokenizer: tokenizers.Tokenizer, texts: list[str], lost: Lost | None
) -> list[np.ndarray]:
    """Returns the ids of texts, with control tokens parsed."""
    cover = coverage(tokenizer)
    counts = lost is not None and not cover.is_total
    if not (counts or cover.refuses):
        found = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in found]
    counted = cover.counter.encode_batch(texts, add_special_tokens=False)
    if lost is not None:
        for text, encoding in zip(texts, counted, strict=True):
            lost.add(cover.lost(text, encoding))
    if cover.counter is not tokenizer and not cover.refuses:
        return _encode(tokenizer, texts, None)
    ids = [np.array(encoding.ids, np.int32) for encoding in counted]
    return [i[i != cover.unknown] for i in ids] if cover.refuses else ids


def _check_known(tokenizer: tokenizers.Tokenizer, text: str) -> None:
    """Raises if part of a prompt would be dropped, not even being unknown."""
    cover = coverage(tokenizer)
    if cover.counter is tokenizer:
        return
    encoding = cover.counter.encode(text, add_special_tokens=False)
    if lost := cover.lost(text, encoding):
        raise UsageError(f"the tokenizer has no ids for {lost[:20]!r} in the prompt")


def _unmark(text: str) -> str:
    return text.replace(_BEGIN, "").replace(_END, "")
