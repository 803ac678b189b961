"""What "different from the teacher" means: divergences, losses, labels and weights."""

from kdjax.losses.divergences import (
    DIVERGENCES,
    Divergence,
    Parameter,
    check_parameters,
    divergence,
)
from kdjax.losses.fused import SoftValues, fused_loss
from kdjax.losses.head import Head, apply_head, padded_logits
from kdjax.losses.labels import next_token
from kdjax.losses.linear import (
    linear_cross_entropy,
    linear_distillation,
    linear_metrics,
)
from kdjax.losses.plan import MAX_PADDING, LossSharding
from kdjax.losses.reference import Parts, distillation_loss, hard_loss
from kdjax.losses.targets import Ensemble, FromHidden, FromSparse, Targets
from kdjax.losses.token_metrics import TokenMetric, token_metrics
from kdjax.losses.vocabulary import Distribution, Vocabulary

__all__ = [
    "DIVERGENCES",
    "MAX_PADDING",
    "Distribution",
    "Divergence",
    "Ensemble",
    "FromHidden",
    "FromSparse",
    "Head",
    "LossSharding",
    "Parameter",
    "Parts",
    "SoftValues",
    "Targets",
    "TokenMetric",
    "Vocabulary",
    "apply_head",
    "check_parameters",
    "distillation_loss",
    "divergence",
    "fused_loss",
    "hard_loss",
    "linear_cross_entropy",
    "linear_distillation",
    "linear_metrics",
    "next_token",
    "padded_logits",
    "token_metrics",
]
