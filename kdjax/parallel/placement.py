"""`Placement`: the little that models need to know of where arrays live."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array, tree_util


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


def name_of(path: tuple[Any, ...]) -> str:
    """Returns a parameter's path in its tree as rules and tables spell it."""
    return tree_util.keystr(path, simple=True, separator="/")
