"""Optimisers from the config: a direction, weight decay and a learning rate."""

import re
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax import contrib

from kdjax.config.schema import OptimizerConfig
from kdjax.parallel.placement import name_of
from kdjax.train.schedules import learning_rate

# Muon orthogonalises matrices. Of these kernels, the input dimensions and the output
# dimensions, counted from the last; a leading layer axis is left apart.
_MATRICES = (
    (r"attention/(query|key|value)/kernel$", (3,), (2, 1)),
    (r"attention/out/kernel$", (3, 2), (1,)),
    (r"mlp/(up|gate|down)/kernel$", (2,), (1,)),
)
# Updates as large as those of AdamW, so that both take the same learning rates and
# weight decay (Liu et al. 2025, arXiv:2502.16982).
_MUON_RMS = 0.2


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Returns clipping by global norm, then the named optimiser with its schedule.

    Whatever the optimiser, weight decay is decoupled from its state (Loshchilov and
    Hutter 2019, arXiv:1711.05101) and multiplied by the learning rate.

    Args:
        config: The optimiser, its parameters and its learning rate.
        steps: The number of steps in the run, for the schedule.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.chain(
            OPTIMIZERS[config.name](config),
            optax.add_decayed_weights(config.weight_decay, _is_decayed),
            optax.scale_by_learning_rate(learning_rate(config, steps)),
        ),
    )


def _adam(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(
        config.beta1, config.beta2, config.epsilon, mu_dtype=config.mu_dtype
    )


def _lion(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_lion(config.beta1, config.beta2, config.mu_dtype)


def _adafactor(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns Adafactor's direction, relative to each parameter's own scale."""
    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=config.beta2_decay),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns Muon's direction for the kernels of blocks, and AdamW's for the rest."""
    muon = contrib.muon(
        1.0,
        beta=config.momentum,
        eps=config.epsilon,
        nesterov=config.nesterov,
        adam_b1=config.beta1,
        adam_b2=config.beta2,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=_MUON_RMS,
        mu_dtype=config.mu_dtype,
    )
    return optax.chain(muon, optax.scale(-1.0))  # it descends; a direction ascends


def _sgd(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.trace(config.momentum, config.nesterov, config.mu_dtype)


OPTIMIZERS: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "adamw": _adam,
    "lion": _lion,
    "adafactor": _adafactor,
    "muon": _muon,
    "sgd": _sgd,
}


def _is_decayed(params: Any) -> Any:
    """Returns True for kernels and tables; norms and biases are not decayed.

    The decision is by name because scanned layers give every leaf an extra dimension.
    """

    def decayed(path: tuple[Any, ...], _: Any) -> bool:
        return path[-1].key not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decayed, params)


def _matrices(params: Any) -> Any:
    """Returns each parameter as a matrix for Muon, or None where it is none.

    A kernel with two dimensions is one under any name but the head's, so that Muon
    trains a user's own modules too.
    """

    def matrix(path: tuple[Any, ...], leaf: Any) -> contrib.MuonDimensionNumbers | None:
        name = name_of(path)
        for pattern, inputs, outputs in _MATRICES:
            if re.search(pattern, name) and leaf.ndim >= len(inputs) + len(outputs):
                first, last = (
                    tuple(leaf.ndim - i for i in axes) for axes in (inputs, outputs)
                )
                return contrib.MuonDimensionNumbers(first, last)
        is_kernel = path[-1].key == "kernel" and not re.search(r"(^|/)head/", name)
        if is_kernel and leaf.ndim == 2:
            return contrib.MuonDimensionNumbers(0, 1)
        return None

    return jax.tree_util.tree_map_with_path(matrix, params)
