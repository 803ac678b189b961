"""Text to batches: corpora, tokenizers, packed rows on disk, and the grain pipeline."""

from kdjax.data.agreement import same_ids
from kdjax.data.corpora import CORPORA, Corpus, Document, open_corpus
from kdjax.data.gguf_tokenizer import read_gguf_tokenizer
from kdjax.data.pipeline import held_out_batches, training_batches
from kdjax.data.prepare import Prepared, prepare
from kdjax.data.tokenizer import (
    TextTokenizer,
    TokenizerFile,
    load_tokenizer,
    read_tokenizer,
)

__all__ = [
    "CORPORA",
    "Corpus",
    "Document",
    "Prepared",
    "TextTokenizer",
    "TokenizerFile",
    "held_out_batches",
    "load_tokenizer",
    "open_corpus",
    "prepare",
    "read_gguf_tokenizer",
    "read_tokenizer",
    "same_ids",
    "training_batches",
]
