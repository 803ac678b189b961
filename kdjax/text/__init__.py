"""Text to ids and back: tokenizers, and how a model was taught conversations."""

from kdjax.text.agreement import same_ids
from kdjax.text.coverage import Lost, changes, coverage
from kdjax.text.encoding import SpecialTokens
from kdjax.text.gguf_tokenizer import read_gguf_tokenizer
from kdjax.text.to_gguf import gguf_tokenizer_metadata
from kdjax.text.tokenizer import (
    TextTokenizer,
    TokenizerFile,
    load_tokenizer,
    read_tokenizer,
    train_tokenizer,
    training_key,
)

__all__ = [
    "Lost",
    "SpecialTokens",
    "TextTokenizer",
    "TokenizerFile",
    "changes",
    "coverage",
    "gguf_tokenizer_metadata",
    "load_tokenizer",
    "read_gguf_tokenizer",
    "read_tokenizer",
    "same_ids",
    "train_tokenizer",
    "training_key",
]
