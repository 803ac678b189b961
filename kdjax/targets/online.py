"""Soft targets computed in the step, by one model or an ensemble of several."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from kdjax.losses import Ensemble, FromHidden, Targets
from kdjax.losses.targets import part
from kdjax.models import Model
from kdjax.parallel.sharding import Batch

# From parameters and a batch to a model's next-token distributions.
Predict = Callable[[Any, Batch], Targets]


# So that programs, which are kept by the function, are compiled once for each model.
@functools.lru_cache(maxsize=64)
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
    return _of_members(tuple(models.items()), tuple(weights[name] for name in models))


@functools.lru_cache(maxsize=64)
def _of_members(
    models: tuple[tuple[str, Model], ...], weights: tuple[float, ...]
) -> Predict:
    members = {name: of_model(model) for name, model in models}

    def predict(params: Mapping[str, Any], batch: Batch) -> Targets:
        each = (member(params[name], batch) for name, member in members.items())
        return Ensemble(tuple(each), weights)

    return predict


class Halves(NamedTuple):
    """A prediction as two programs: what a model computes of tokens, and its head.

    Nearly all there is to compile is in the first, which all that reads the model in
    batches of one shape can share.

    Attributes:
        read: `read(params, batch) -> leaves`, jitted: those of the targets that are
            arrays over tokens.
        joined: `joined(params, batch, leaves) -> targets`, inside of a jitted function.
    """

    read: Callable[[Any, Batch], list[jax.Array]]
    joined: Callable[[Any, Batch, Sequence[jax.Array]], Targets]


@functools.lru_cache(maxsize=64)
def halve(predict: Predict) -> Halves:
    """Returns the halves of a prediction, the same each time."""
    traced = jax.jit(predict)  # once for both

    def read(params: Any, batch: Batch) -> list[jax.Array]:
        return part({"model": traced(params, batch)}).tokens

    def joined(params: Any, batch: Batch, leaves: Sequence[jax.Array]) -> Targets:
        # The tokens' own arrays are used by nothing, and jax drops what makes them.
        parts = part({"model": traced(params, batch)})
        found: Targets = parts.joined(leaves, parts.ids)["model"]
        return found

    return Halves(jax.jit(read), joined)
