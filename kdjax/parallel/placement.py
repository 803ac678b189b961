"""`Placement`: all that models need to know about where arrays live."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array, tree_util


class Placement(NamedTuple):
    """Where arrays live while a model runs; by default, wherever they already are.

    Attributes:
        activation: Applied to the residual stream [B, T, D] at the input and after
            every block.
        weight: Applied to (path, parameter) where the parameter is used; parameters
            of a block come without the leading layer axis.
    """

    activation: Callable[[Array], Array] = lambda x: x
    weight: Callable[[str, Array], Array] = lambda path, x: x


def name_of(path: tuple[Any, ...]) -> str:
    """Returns a parameter's path in its tree, as spelled in rules and tables."""
    return tree_util.keystr(path, simple=True, separator="/")
