"""What "different from the teacher" means: divergences, losses, labels and weights."""

from kdjax.losses.alignment import next_token
from kdjax.losses.distillation import (
    Parts,
    distillation_loss,
    hard_loss,
    linear_cross_entropy,
    linear_distillation,
)
from kdjax.losses.divergences import DIVERGENCES, Divergence, divergence
from kdjax.losses.head import Head, apply_head, common_vocabulary

__all__ = [
    "DIVERGENCES",
    "Divergence",
    "Head",
    "Parts",
    "apply_head",
    "common_vocabulary",
    "distillation_loss",
    "divergence",
    "hard_loss",
    "linear_cross_entropy",
    "linear_distillation",
    "next_token",
]
