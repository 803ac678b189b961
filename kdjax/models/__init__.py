"""Models as pure functions: `build(config)` gives init, hidden, head and logits.

`load_pretrained` reads Hugging Face directories and GGUF files, `save_pretrained`
writes the former.
"""

from kdjax.losses import Head, apply_head
from kdjax.models.export import save_pretrained
from kdjax.models.model import Model, build
from kdjax.models.pretrained import (
    fingerprint,
    is_pretrained,
    load_config,
    load_pretrained,
    stored_formats,
)
from kdjax.placement import Placement

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
    "save_pretrained",
    "stored_formats",
]
