"""Models on disk: `open_model` opens any of them, whoever wrote it."""

from kdjax.checkpoints.gguf.save import save_gguf
from kdjax.checkpoints.handle import StoredModel
from kdjax.checkpoints.hf.save import save_pretrained
from kdjax.checkpoints.opening import (
    fingerprint,
    is_pretrained,
    load_config,
    load_pretrained,
    open_model,
    stored_formats,
)

__all__ = [
    "StoredModel",
    "fingerprint",
    "is_pretrained",
    "load_config",
    "load_pretrained",
    "open_model",
    "save_gguf",
    "save_pretrained",
    "stored_formats",
]
