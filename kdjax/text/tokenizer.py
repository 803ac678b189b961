"""Tokenizers: trained here, bytes only, from a tokenizer.json or a GGUF file."""

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

import tokenizers
from etils import epath
from tokenizers import decoders, models, pre_tokenizers, trainers

from kdjax.config.architecture import MOST_IDS
from kdjax.config.schema import TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.core.inputs import fetched_tokenizer
from kdjax.formats.gguf import read_header
from kdjax.text.beginning import Bos, contradiction, find_prefix, with_beginning
from kdjax.text.beside import add_tokens, read_beside
from kdjax.text.chat import Chat
from kdjax.text.controls import with_special
from kdjax.text.gguf_tokenizer import read_gguf_tokenizer
from kdjax.text.older import read_older
from kdjax.text.text_tokenizer import TextTokenizer

# Beside the tokenizers that kdjax writes with a model: they have all their tokens, and
# the model's card has their hash.
_NATIVE = "model.json"

__all__ = [
    "TextTokenizer",
    "TokenizerFile",
    "load_tokenizer",
    "read_tokenizer",
    "train_tokenizer",
    "training_key",
]


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


def training_key(config: TokenizerConfig) -> str:
    """Returns what of a config the training of a tokenizer depends on.

    Caches are keyed by it, in the words of the first version.
    """
    return (
        f"TokenizerConfig(kind={config.kind!r}, vocab_size={config.vocab_size!r}, "
        f"path={config.path!r}, end_of_text={config.end_of_text!r})"
    )


def load_tokenizer(
    path: epath.PathLike, end_of_text: str | int, bos: Bos = "auto"
) -> TextTokenizer:
    """Returns the tokenizer in a tokenizer.json or a GGUF file.

    What the tokenizer.json lacks, such as the chat template, comes from the files
    beside it.

    Args:
        path: The file, or its directory.
        end_of_text: The token that ends a document, or its id.
        bos: Whether texts begin with the BOS token; "auto": as the files say.

    Raises:
        UsageError: The file is missing or not a tokenizer, has no such token, or the
            files contradict each other.
    """
    found = read_tokenizer(fetched_tokenizer(path))
    return found.ended_by(end_of_text, str(path), bos)


class TokenizerFile(NamedTuple):
    """A tokenizer as read from a file: all but the token that ends a document.

    Attributes:
        tokenizer: The library's object.
        chat: The chat template and its special tokens.
        add_bos: Whether a file beside it says that texts begin with the BOS token.
        special: Further tokens that no text should reach.
    """

    tokenizer: tokenizers.Tokenizer
    chat: Chat
    add_bos: bool | None = None
    special: tuple[str, ...] = ()

    def contradiction(self, source: str) -> str:
        """Returns how the files disagree on the BOS token, or an empty string."""
        return contradiction(self.tokenizer, self.add_bos, source)

    def ended_by(
        self, end_of_text: str | int, source: str, bos: Bos = "auto"
    ) -> TextTokenizer:
        """Returns the tokenizer whose documents end with a token.

        Args:
            end_of_text: The token, or its id.
            source: Names the file in error messages.
            bos: Whether texts begin with the BOS token; "auto": as the files say.

        Raises:
            UsageError: There is no such token, or the files contradict each other.
        """
        if bos == "auto" and (conflict := self.contradiction(source)):
            raise UsageError(
                f"{conflict}; set config.tokenizer.bos to 'always' or 'never'"
            )
        tokenizer = with_beginning(self.tokenizer, bos, self.chat.bos_token, source)
        found = _wrap(tokenizer, end_of_text, source)
        names = (*self.chat.named.values(), *self.special)
        return found._replace(
            tokenizer=with_special(found.tokenizer, names), chat=self.chat
        )


def read_tokenizer(path: epath.Path) -> TokenizerFile:
    """Reads a tokenizer.json with the files beside it, or a GGUF file.

    Args:
        path: The file, or its directory. Without a tokenizer.json, a vocab.json and a
            merges.txt are read instead, where they suffice.

    Raises:
        UsageError: The file is missing or not a tokenizer.
    """
    if path.suffix == ".gguf":
        return TokenizerFile(*read_gguf_tokenizer(read_header(path).metadata, path))
    if path.is_dir():
        path /= "tokenizer.json"
    beside = read_beside(path.parent)
    if path.exists():
        try:
            tokenizer = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
        # The library raises bare Exception for a file it cannot parse.
        except Exception as error:
            raise UsageError(
                f"{path} is not a readable tokenizer.json ({error})"
            ) from None
    else:
        tokenizer = read_older(path, beside)
    if not (path.parent / _NATIVE).exists():
        add_tokens(tokenizer, beside, path.parent)
    chat = beside.chat
    if tokenizer.padding and "pad_token" not in chat.named:
        padding = ("pad_token", str(tokenizer.padding["pad_token"]))
        chat = chat._replace(tokens=(padding, *chat.tokens))
    return TokenizerFile(tokenizer, chat, beside.add_bos, beside.special)


def _wrap(
    tokenizer: tokenizers.Tokenizer, end_of_text: str | int, source: str
) -> TextTokenizer:
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= MOST_IDS:
        raise UsageError(
            f"{source} gives a token the id {largest:,}; ids must be below "
            f"{MOST_IDS:,}: correct it, or choose another tokenizer"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None) is not None:
        tokenizer.model.dropout = None  # a text has one sequence of ids
    if isinstance(end_of_text, str):
        end = tokenizer.token_to_id(end_of_text)
    else:
        end = end_of_text if tokenizer.id_to_token(end_of_text) else None
    if end is None:
        raise UsageError(
            f"{source} has no token {end_of_text!r}; set config.tokenizer.end_of_text "
            "to the token that ends a document"
        )
    prefix, content = find_prefix(tokenizer, source), tokenizer.to_str()
    identity = [json.loads(content), end, *prefix]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return TextTokenizer(tokenizer, end, digest, prefix, content=content)
