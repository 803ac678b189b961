"""Documents to batches: corpora, packed rows on disk, and the grain pipeline."""

from typing import TYPE_CHECKING

from kdjax.core.late import late

if TYPE_CHECKING:
    from kdjax.data.batches import held_out_batches, training_batches, training_order
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
    "training_order",
]

_HOMES = {
    "CORPORA": "kdjax.data.corpora",
    "Corpus": "kdjax.data.documents",
    "Document": "kdjax.data.documents",
    "Prepared": "kdjax.data.rows",
    "held_out_batches": "kdjax.data.batches",
    "open_corpus": "kdjax.data.corpora",
    "prepare": "kdjax.data.rows",
    "training_batches": "kdjax.data.batches",
    "training_order": "kdjax.data.batches",
}
__getattr__ = late(__name__, _HOMES)
