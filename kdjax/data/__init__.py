"""Documents to batches: corpora, packed rows on disk, and the grain pipeline."""

from kdjax.data.batches import held_out_batches, training_batches
from kdjax.data.corpora import CORPORA, open_corpus
from kdjax.data.documents import Corpus, Document
from kdjax.data.rows import Prepared, prepare

__all__ = [
    "CORPORA",
    "Corpus",
    "Document",
    "Prepared",
    "held_out_batches",
    "open_corpus",
    "prepare",
    "training_batches",
]
