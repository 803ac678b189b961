"""Models on disk: `open_model` opens any of them, whoever wrote it."""

from typing import TYPE_CHECKING

from kdjax.core.late import late

if TYPE_CHECKING:
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

_HOMES = {
    "StoredModel": "kdjax.checkpoints.handle",
    "fingerprint": "kdjax.checkpoints.opening",
    "is_pretrained": "kdjax.checkpoints.opening",
    "load_config": "kdjax.checkpoints.opening",
    "load_pretrained": "kdjax.checkpoints.opening",
    "open_model": "kdjax.checkpoints.opening",
    "save_gguf": "kdjax.checkpoints.gguf.save",
    "save_pretrained": "kdjax.checkpoints.hf.save",
    "stored_formats": "kdjax.checkpoints.opening",
}
__getattr__ = late(__name__, _HOMES)
