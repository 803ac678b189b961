"""The former location of `kdjax.models.pruning.importance`."""

import warnings

from kdjax.models.pruning.importance import Importance, measure

__all__ = ["Importance", "measure"]

warnings.warn(
    "kdjax.models.importance is now kdjax.models.pruning.importance",
    DeprecationWarning,
    stacklevel=2,
)
