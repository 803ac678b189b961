"""Models as pure functions: `build(config)` gives init, hidden, head and logits.

`open_model` opens any model on disk, `load_pretrained` loads one, `save_pretrained`
writes one in the Hugging Face format, and `save_gguf` one as a GGUF file.
"""

import importlib
from typing import Any

from kdjax.losses import Head, apply_head
from kdjax.models.model import Model, build
from kdjax.parallel.placement import Placement

# kdjax.checkpoints, a layer above, reads and writes files; these names are re-exported
# here for users.
_ABOVE = (
    "fingerprint",
    "is_pretrained",
    "load_config",
    "load_pretrained",
    "open_model",
    "save_gguf",
    "save_pretrained",
    "stored_formats",
)

__all__ = [
    "Head",
    "Model",
    "Placement",
    "apply_head",
    "build",
    "fingerprint",
    "is_pretrained",
    "load_config",
    "load_pretrained",
    "open_model",
    "save_gguf",
    "save_pretrained",
    "stored_formats",
]


def __getattr__(name: str) -> Any:
    if name in _ABOVE:
        return getattr(importlib.import_module("kdjax.checkpoints"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
