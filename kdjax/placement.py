"""`Placement`: the little that models need to know of where arrays live."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array


class Placement(NamedTuple):
    """Where arrays live while a model runs; by default wherever they are.

    Attributes:
        activation: Applied to the residual stream [B, T, D] at the entrance and after
            every block.
        weight: Applied to (path, parameter) where it is used; the parameters of a
            block come without the leading layer axis.
    """

    activation: Callable[[Array], Array] = lambda x: x
    weight: Callable[[str, Array], Array] = lambda path, x: x
