"""Exact, sharded knowledge distillation of language models in JAX.

Importing the package imports nothing else, so that the command-line programs can reject
a mistake before any slow import. `kdjax.run` does what the main command does, with a
config such as `kdjax.load_config` returns. Import what else you need, such as
``kdjax.losses``, ``kdjax.models`` or ``kdjax.train``; docs/architecture.md describes
all packages.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdjax.config.packaged import load_config
    from kdjax.running import run

__all__ = ["__version__", "load_config", "run"]
__version__ = "0.1.0"

_HOMES = {"load_config": "kdjax.config.packaged", "run": "kdjax.running"}


def __getattr__(name: str) -> Any:
    """Imports `run` and `load_config` when they are first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kdjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
