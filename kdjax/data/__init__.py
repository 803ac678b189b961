"""Text to batches: corpora, tokenizers, packed rows on disk, and the grain pipeline."""

from kdjax.data.corpora import CORPORA, Corpus, Document, open_corpus
from kdjax.data.pipeline import held_out_batches, training_batches
from kdjax.data.prepare import Prepared, prepare
from kdjax.data.stops import read_stops
from kdjax.data.tokenizer import (
    TextTokenizer,
    load_tokenizer,
    same_ids,
    tokenizer_file,
)

__all__ = [
    "CORPORA",
    "Corpus",
    "Document",
    "Prepared",
    "TextTokenizer",
    "held_out_batches",
    "load_tokenizer",
    "open_corpus",
    "prepare",
    "read_stops",
    "same_ids",
    "tokenizer_file",
    "training_batches",
]
