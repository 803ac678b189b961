"""What is trained, as functions of trained and frozen parameters."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from kdjax.losses import Head
from kdjax.models import Model
from kdjax.parallel.sharding import Batch

Frozen = Mapping[str, Any]  # parameters that no step changes, by name


class Learner(NamedTuple):
    """What is trained.

    Attributes:
        init: `init(key) -> params`, what a step changes and a checkpoint holds.
        forward: `forward(params, frozen, batch) -> [B, T, D]`, the last hidden states.
        head: `head(params, frozen) -> Head`, what reads them.
        export: `export(params, frozen)`, the parameters of the trained model, as it is
            evaluated and saved.
    """

    init: Callable[[jax.Array], Any]
    forward: Callable[[Any, Frozen, Batch], Array]
    head: Callable[[Any, Frozen], Head]
    export: Callable[[Any, Frozen], Any]


def whole_model(model: Model) -> Learner:
    """Returns the learner that trains all parameters of a model."""

    def forward(params: Any, frozen: Frozen, batch: Batch) -> Array:
        return model.hidden(params, batch["tokens"], batch["segments"])

    return Learner(
        init=model.init,
        forward=forward,
        head=lambda params, frozen: model.head(params),
        export=lambda params, frozen: params,
    )
