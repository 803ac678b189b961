"""Means that stay right under masks, micro-batches and devices: (total, count)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A weighted sum and its total weight; adding two gives the mean over both."""

    total: Float[Array, ""] | Any
    count: Float[Array, ""] | Any

    @classmethod
    def of(cls, values: Float[Array, "*n"], weights: Float[Array, "*n"]) -> "Mean":
        """Returns the weighted mean of the values."""
        return cls(jnp.sum(values * weights), jnp.sum(weights))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    def compute(self) -> float:
        """Returns the mean on the host; 0 where nothing was counted."""
        count = float(self.count)
        return float(self.total) / count if count else 0.0
