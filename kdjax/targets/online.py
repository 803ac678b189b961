"""Targets that are computed in the step: a model, or several as an ensemble."""

from collections.abc import Callable, Mapping
from typing import Any

from kdjax.losses import Ensemble, FromHidden, Targets
from kdjax.models import Model
from kdjax.parallel.sharding import Batch

# From parameters and a batch to what a model says about the batch's tokens.
Predict = Callable[[Any, Batch], Targets]


def of_model(model: Model) -> Predict:
    """Returns what computes the next-token distributions of one model."""

    def predict(params: Any, batch: Batch) -> Targets:
        hidden = model.hidden(params, batch["tokens"], batch["segments"])
        return FromHidden(hidden, model.head(params))

    return predict


def of_ensemble(models: Mapping[str, Model], weights: Mapping[str, float]) -> Predict:
    """Returns what computes the weighted mean of several models' probabilities.

    Args:
        models: By name; the parameters that it takes have the same names.
        weights: What each of them counts.
    """
    members = {name: of_model(model) for name, model in models.items()}

    def predict(params: Mapping[str, Any], batch: Batch) -> Targets:
        each = (member(params[name], batch) for name, member in members.items())
        return Ensemble(tuple(each), tuple(weights[name] for name in members))

    return predict
