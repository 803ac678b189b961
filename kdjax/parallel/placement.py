"""`Placement`: all that models need to know about where arrays live."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array, tree_util


class Devices(NamedTuple):
    """The devices that run a kernel on their own rows and heads.

    Attributes:
        platform: "cpu", "gpu" or "tpu".
        rows: Returns into how many parts the rows of a batch are cut, where it is
            called: inside a `shard_map` they are its own.
        heads: Into how many parts the heads are cut.
        local: From a function of query, key and value [B, T, H, K] and segments [B, T]
            to one that runs it on each device's part of them, and returns all parts.
    """

    platform: str
    rows: Callable[[], int]
    heads: int
    local: Callable[[Callable[..., Array]], Callable[..., Array]]


class Placement(NamedTuple):
    """Where arrays live while a model runs; by default, wherever they already are.

    Attributes:
        activation: Applied to the residual stream [B, T, D] at the input and after
            every block.
        gather: Applied to [B, T, D] that products read: the normalised input of
            attention and MLP, and the last hidden states.
        scatter: Applied to what attention and MLP return.
        weight: Applied to (path, parameter) where the parameter is used; parameters
            of a block come without the leading layer axis.
        lookup: `lookup(path, table, tokens, dtype)`, the rows [B, T, D] of the table
            [V, D] of that path for tokens [B, T].
        devices: What runs kernels; None: unknown, so that XLA runs all.
    """

    activation: Callable[[Array], Array] = lambda x: x
    gather: Callable[[Array], Array] = lambda x: x
    scatter: Callable[[Array], Array] = lambda x: x
    weight: Callable[[str, Array], Array] = lambda path, x: x
    lookup: Callable[[str, Array, Array, Any], Array] = (
        lambda path, table, tokens, dtype: table.astype(dtype)[tokens]
    )
    devices: Devices | None = None


def name_of(path: tuple[Any, ...]) -> str:
    """Returns a parameter's path in its tree, as spelled in rules and tables."""
    return tree_util.keystr(path, simple=True, separator="/")
