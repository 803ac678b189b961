"""Models as pure functions: `build(config)` gives init, hidden, head and logits."""

from kdjax.losses import Head, apply_head
from kdjax.models.model import Model, build
from kdjax.placement import Placement

__all__ = ["Head", "Model", "Placement", "apply_head", "build"]
