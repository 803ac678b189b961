"""What "different from the teacher" means: divergences, losses, labels and weights."""

from kdjax.losses.alignment import next_token
from kdjax.losses.distillation import Parts, distillation_loss, hard_loss
from kdjax.losses.divergences import (
    DIVERGENCES,
    Divergence,
    Parameter,
    check_parameters,
    divergence,
)
from kdjax.losses.head import Head, apply_head
from kdjax.losses.linear import (
    linear_cross_entropy,
    linear_distillation,
    linear_metrics,
)
from kdjax.losses.plan import MAX_PADDING, LossSharding

__all__ = [
    "DIVERGENCES",
    "MAX_PADDING",
    "Divergence",
    "Head",
    "LossSharding",
    "Parameter",
    "Parts",
    "apply_head",
    "check_parameters",
    "distillation_loss",
    "divergence",
    "hard_loss",
    "linear_cross_entropy",
    "linear_distillation",
    "linear_metrics",
    "next_token",
]
