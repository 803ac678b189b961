"""Soft targets computed in the step, by one model or an ensemble of several."""

from collections.abc import Callable, Mapping
from typing import Any

from kdjax.losses import Ensemble, FromHidden, Targets
from kdjax.models import Model
from kdjax.parallel.sharding import Batch

# From parameters and a batch to a model's next-token distributions.
Predict = Callable[[Any, Batch], Targets]


def of_model(model: Model) -> Predict:
    """Returns a function that computes one model's next-token distributions."""

    def predict(params: Any, batch: Batch) -> Targets:
        hidden = model.hidden(params, batch["tokens"], batch["segments"])
        return FromHidden(hidden, model.head(params))

    return predict


def of_ensemble(models: Mapping[str, Model], weights: Mapping[str, float]) -> Predict:
    """Returns a function that computes the weighted mean of models' probabilities.

    Args:
        models: By name; the function takes parameters by the same names.
        weights: The weight of each model, by name.
    """
    members = {name: of_model(model) for name, model in models.items()}

    def predict(params: Mapping[str, Any], batch: Batch) -> Targets:
        each = (member(params[name], batch) for name, member in members.items())
        return Ensemble(tuple(each), tuple(weights[name] for name in members))

    return predict
