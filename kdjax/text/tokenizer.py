"""Tokenizers: trained here, bytes only, from a tokenizer.json or a GGUF file."""

import hashlib
import json
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import tokenizers
from etils import epath
from tokenizers import decoders, models, pre_tokenizers, trainers

from kdjax.config.schema import TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.core.files import write_bytes
from kdjax.formats.gguf import read_header
from kdjax.text.chat import Chat, read_chat
from kdjax.text.gguf_tokenizer import read_gguf_tokenizer

_BATCH = 256  # documents handed to the library's threads at once


class TextTokenizer(NamedTuple):
    """A tokenizer, the id that ends a document, and the hash of its content.

    Attributes:
        tokenizer: The library's object.
        end_of_text: The id that ends a document.
        sha256: The hash of everything that determines a document's ids.
        prefix: The ids that the tokenizer puts before a text, such as that of `<bos>`.
        chat: The chat template and its special tokens.
    """

    tokenizer: tokenizers.Tokenizer
    end_of_text: int
    sha256: str
    prefix: tuple[int, ...] = ()
    chat: Chat = Chat()

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
        ends = (self.end_of_text, self.tokenizer.token_to_id(self.chat.eos_token))
        return tuple(dict.fromkeys(end for end in ends if end is not None))

    def encode(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """Yields each text's ids, ended by `end_of_text`; uses all cores.

        The ids come without `prefix`: `pack` puts it before every piece into which it
        splits a document.
        """
        batch: list[str] = []
        for text in texts:
            batch.append(text)
            if len(batch) == _BATCH:
                yield from self._encode_batch(batch)
                batch = []
        yield from self._encode_batch(batch)

    def _encode_batch(self, batch: list[str]) -> Iterator[np.ndarray]:
        for encoding in self.tokenizer.encode_batch_fast(
            batch, add_special_tokens=False
        ):
            yield np.array([*encoding.ids, self.end_of_text], np.int32)

    def encode_prompt(self, text: str) -> list[int]:
        """Returns the ids of the beginning of a document, with `prefix` before them.

        Raises:
            UsageError: The text is not Unicode.
        """
        return [*self.prefix, *self._encode_one(text)]

    def encode_message(self, message: str) -> list[int]:
        """Returns the ids of a user's message, up to where the answer begins.

        Raises:
            UsageError: There is no chat template, it fails, or the text is not Unicode.
        """
        eos_token = self.chat.eos_token or self.end_of_text_token
        text = self.chat._replace(eos_token=eos_token).render(message)
        # The template has already inserted the special tokens.
        return self._encode_one(text)

    def _encode_one(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"the prompt {text!r} is not valid UTF-8") from None
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Returns the text of ids; special tokens, such as `end_of_text`, are left out.

        Example:
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
        }
        if chat.bos_token:
            config["bos_token"] = chat.bos_token
        if chat.template:
            config["chat_template"] = chat.template
        return {
            "tokenizer.json": self.tokenizer.to_str(),
            "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        }

    def save_files(self, directory: epath.Path) -> None:
        """Writes all files, each atomically."""
        for name, text in self.files().items():
            write_bytes(directory / name, text.encode())

    def save(self, path: epath.Path) -> None:
        """Writes a tokenizer.json, atomically."""
        write_bytes(path, self.tokenizer.to_str().encode())


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> TextTokenizer:
    """Returns a byte-level BPE trained on the texts, or the bytes-only tokenizer."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # 256 bytes and the end of text leave no room for a merge.
    size = 257 if config.kind == "bytes" else config.vocab_size
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[config.end_of_text],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(() if config.kind == "bytes" else texts, trainer)
    return _wrap(tokenizer, config.end_of_text, "the trained tokenizer")


def load_tokenizer(path: epath.PathLike, end_of_text: str | int) -> TextTokenizer:
    """Returns the tokenizer in a tokenizer.json or a GGUF file.

    The chat template comes from that file or from those beside it.

    Args:
        path: The file.
        end_of_text: The token that ends a document, or its id.

    Raises:
        UsageError: The file is missing or not a tokenizer, or has no such token.
    """
    return read_tokenizer(epath.Path(path)).ended_by(end_of_text, str(path))


class TokenizerFile(NamedTuple):
    """A tokenizer as read from a file: all but the token that ends a document.

    Attributes:
        tokenizer: The library's object.
        chat: The chat template and its special tokens.
    """

    tokenizer: tokenizers.Tokenizer
    chat: Chat

    def ended_by(self, end_of_text: str | int, source: str) -> TextTokenizer:
        """Returns the tokenizer whose documents end with a token.

        Args:
            end_of_text: The token, or its id.
            source: Names the file in error messages.

        Raises:
            UsageError: There is no such token.
        """
        found = _wrap(self.tokenizer, end_of_text, source)
        return found._replace(chat=self.chat)


def read_tokenizer(path: epath.Path) -> TokenizerFile:
    """Reads a tokenizer.json with the files beside it, or a GGUF file.

    Raises:
        UsageError: The file is missing or not a tokenizer.
    """
    if path.suffix == ".gguf":
        return TokenizerFile(*read_gguf_tokenizer(read_header(path).metadata, path))
    try:
        tokenizer = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
    # The library raises bare Exception for a file it cannot parse.
    except Exception as error:
        raise UsageError(f"{path} is not a readable tokenizer.json ({error})") from None
    return TokenizerFile(tokenizer, read_chat(path.parent))


def _wrap(
    tokenizer: tokenizers.Tokenizer, end_of_text: str | int, source: str
) -> TextTokenizer:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if isinstance(end_of_text, str):
        end = tokenizer.token_to_id(end_of_text)
    else:
        end = end_of_text if tokenizer.id_to_token(end_of_text) else None
    if end is None:
        raise UsageError(
            f"{source} has no token {end_of_text!r}; set config.tokenizer.end_of_text "
            "to the token that ends a document"
        )
    prefix = _prefix(tokenizer, source)
    identity = [json.loads(tokenizer.to_str()), end, *prefix]
    content = json.dumps(identity, sort_keys=True).encode()
    return TextTokenizer(tokenizer, end, hashlib.sha256(content).hexdigest(), prefix)


def _prefix(tokenizer: tokenizers.Tokenizer, source: str) -> tuple[int, ...]:
    """Returns the ids put before a text, found by encoding some text."""
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    for text in ("a", *vocab):
        try:
            encoding = tokenizer.encode(text)
        # The library raises bare Exception for text that it has no ids for.
        except Exception:
            continue
        if 0 in encoding.special_tokens_mask:
            prefix = encoding.ids[: encoding.special_tokens_mask.index(0)]
            if unknown := set(prefix) - set(vocab.values()):
                raise UsageError(
                    f"{source} begins texts with the id {unknown.pop()}, which is not "
                    "in its vocabulary"
                )
            return tuple(prefix)
    return ()
