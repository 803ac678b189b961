"""One tokenizer: text to ids and back."""

import itertools
import json
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import tokenizers
from etils import epath
from tokenizers import decoders

from kdjax.core.files import write_bytes
from kdjax.text.chat import Chat
from kdjax.text.coverage import Lost
from kdjax.text.encoding import Encoder, SpecialTokens, make_encoder

_BATCH = 256  # documents handed to the library's threads at once


class TextTokenizer(NamedTuple):
    """A tokenizer, the id that ends a document, and the hash of its content.

    Attributes:
        tokenizer: The library's object.
        end_of_text: The id that ends a document.
        sha256: The hash of everything that determines a document's ids.
        prefix: The ids that the tokenizer puts before a text, such as that of `<bos>`.
        chat: The chat template and its special tokens.
        content: The tokenizer.json to save; if empty, that of `tokenizer`.
    """

    tokenizer: tokenizers.Tokenizer
    end_of_text: int
    sha256: str
    prefix: tuple[int, ...] = ()
    chat: Chat = Chat()
    content: str = ""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, since some tokenizers skip ids."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    @property
    def end_of_text_token(self) -> str:
        """The token that ends a document."""
        return str(self.tokenizer.id_to_token(self.end_of_text))

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids that end a text: of a document and, if different, of an answer."""
        answer = self.tokenizer.token_to_id(self.chat.eos_token)
        ends = (self.end_of_text, answer, *self.chat.stops)
        return tuple(dict.fromkeys(end for end in ends if end is not None))

    @property
    def encoder(self) -> Encoder:
        """What turns texts into ids; made anew at each call."""
        return make_encoder(self.tokenizer, [self.end_of_text_token])

    def encode(
        self,
        texts: Iterable[str],
        special_tokens: SpecialTokens = "text",
        lost: Lost | None = None,
    ) -> Iterator[np.ndarray]:
        """Yields each text's ids, ended by `end_of_text`; uses all cores.

        The ids come without `prefix`: `pack` puts it before every piece into which it
        splits a document.

        Args:
            texts: The texts.
            special_tokens: "text": a text that spells a token such as `</s>` gets the
                ids of its letters; "parse": that token's.
            lost: Counts what the tokenizer has no ids for.

        Raises:
            UsageError: `lost` counts too much.
        """
        encoder = self.encoder
        for batch in _batches(texts):
            for ids in encoder.texts(batch, special_tokens, lost):
                yield np.append(ids, np.int32(self.end_of_text))

    def encode_prompt(
        self, text: str, special_tokens: SpecialTokens = "text"
    ) -> list[int]:
        """Returns the ids of the beginning of a document, with `prefix` before them.

        Raises:
            UsageError: The text is not Unicode, or some of it has no ids.
        """
        return [*self.prefix, *self.encoder.prompt(text, special_tokens)]

    def encode_message(self, message: str) -> list[int]:
        """Returns the ids of a user's message, up to where the answer begins.

        Tokens such as `<|im_end|>` are parsed in the template, but not in the message.

        Raises:
            UsageError: There is no chat template, it fails, the text is not Unicode, or
                some of it has no ids.
        """
        return self.encoder.message(message, self.chat)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Returns the text of ids; special tokens, such as `end_of_text`, are left out.

        Example:
            >>> from kdjax.config import TokenizerConfig
            >>> from kdjax.text import train_tokenizer
            >>> tokenizer = train_tokenizer((), TokenizerConfig(kind="bytes"))
            >>> tokenizer.decode([*tokenizer.encode_prompt("naïve"), 0])
            'naïve'
        """
        # The library does not accept numpy integers.
        plain = [operator.index(token) for token in ids]
        return self.tokenizer.decode(plain, skip_special_tokens=True)

    def make_stream(self, context: Iterable[int]) -> Callable[[int], str]:
        """Returns a function from ids, one by one, to the text that each completes.

        A character whose bytes span several tokens comes with the last of them. Special
        tokens produce no text.

        Args:
            context: The preceding ids; their text is not repeated.
        """
        stream, last = decoders.DecodeStream(skip_special_tokens=True), -1
        added = self.tokenizer.get_added_tokens_decoder()

        def step(token: int) -> str:
            nonlocal stream, last
            try:
                piece = stream.step(self.tokenizer, token)
            # The library raises bare Exception where invalid bytes change how the
            # preceding text decodes.
            except Exception:
                stream = decoders.DecodeStream(skip_special_tokens=True)
                stream.step(self.tokenizer, last)  # else it starts a text
                piece = stream.step(self.tokenizer, token)
            if token not in added and self.tokenizer.id_to_token(token) is not None:
                last = token
            return piece or ""

        for token in context:
            step(token)
        return step

    def files(self) -> dict[str, str]:
        """Returns the contents of the files that transformers expects, by name."""
        end, chat = self.end_of_text_token, self.chat
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": chat.eos_token or end,
            "pad_token": end,
            "clean_up_tokenization_spaces": False,
            **chat.named,
        }
        if chat.template:
            config["chat_template"] = chat.template
        return {
            "tokenizer.json": self.content or self.tokenizer.to_str(),
            "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        }

    def save_files(self, directory: epath.Path) -> None:
        """Writes all files, each atomically, and the ids that end a text."""
        files = self.files()
        if self.chat.stops:
            stops = {"eos_token_id": list(self.chat.stops)}
            files["generation_config.json"] = json.dumps(stops, indent=2) + "\n"
        for name, text in files.items():
            write_bytes(directory / name, text.encode())

    def save(self, path: epath.Path) -> None:
        """Writes a tokenizer.json, atomically."""
        write_bytes(path, (self.content or self.tokenizer.to_str()).encode())


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(texts)
    while batch := list(itertools.islice(remaining, _BATCH)):
        yield batch
