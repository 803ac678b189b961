"""The former location of `kdjax.models.pruning.prune`."""

import warnings

from kdjax.models.pruning.prune import (
    Layers,
    Parts,
    choose,
    describe,
    needs_importance,
    prune,
    with_windows,
)

__all__ = [
    "Layers",
    "Parts",
    "choose",
    "cut",
    "describe",
    "needs_importance",
    "with_windows",
]

cut = prune

warnings.warn(
    "kdjax.models.surgery is now kdjax.models.pruning.prune, and its `cut` is `prune`",
    DeprecationWarning,
    stacklevel=2,
)
