"""Optimisers from the config."""

from typing import Any

import jax
import optax

from kdjax.config.schema import OptimizerConfig
from kdjax.train.schedules import learning_rate


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Returns clipping by global norm, then the named optimiser with its schedule."""
    schedule = learning_rate(config, steps)
    factory = {"adamw": optax.adamw, "lion": optax.lion}[config.name]
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        factory(
            schedule,
            b1=config.beta1,
            b2=config.beta2,
            weight_decay=config.weight_decay,
            mask=_is_decayed,
        ),
    )


def _is_decayed(params: Any) -> Any:
    """Returns True for kernels and tables; norms and biases are not decayed.

    The decision is by name because scanned layers give every leaf an extra dimension.
    """

    def decayed(path: tuple[Any, ...], _: Any) -> bool:
        return path[-1].key not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decayed, params)
