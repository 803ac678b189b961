"""What stands to the right of a binding: a value, a list of values, or a draw."""

import ast
import dataclasses
import difflib
import math
import random
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from kdjax.core.errors import UsageError

_WORDS = {"true": True, "false": False}
_DIGITS = 6  # of a drawn number: what is shown of it is all there is


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


_DRAWS: Mapping[str, Callable[..., Any]] = {
    "uniform": lambda rng, low, high: rng.uniform(low, high),
    "log_uniform": _log_uniform,
    "int_uniform": lambda rng, low, high: rng.randint(low, high),
    "choice": lambda rng, values: rng.choice(values),
}


@dataclasses.dataclass(frozen=True)
class Distribution:
    """What a random search draws a key's values from.

    Attributes:
        name: "uniform", "log_uniform", "int_uniform", both ends included, or "choice".
        arguments: The ends, or the values to choose from.
    """

    name: str
    arguments: tuple[Any, ...]

    def draw(self, rng: random.Random) -> Any:
        """Returns a value; numbers have 6 significant digits."""
        value = _DRAWS[self.name](rng, *self.arguments)
        return (
            float(f"{value:.{_DIGITS}g}")
            if self.name != "choice" and isinstance(value, float)
            else value
        )

    @property
    def values(self) -> tuple[Any, ...]:
        """Values whose type stands for that of all that are drawn."""
        return tuple(self.arguments[0]) if self.name == "choice" else self.arguments


def parse(text: str, hint: Any) -> tuple[Any, ...] | Distribution:
    """Returns the values of a binding; a value that is no list is a single one.

    Args:
        text: Python literals; words need no quotes, nor does a whole text.
        hint: The annotation of the key, as `check_key` returns it.

    Raises:
        UsageError: It is neither; the message does not name the binding.

    Example:
        >>> parse("[1, 2.5]", float)
        (1, 2.5)
        >>> parse("[forward_kl, jsd]", str)
        ('forward_kl', 'jsd')
        >>> parse("log_uniform(1e-4, 1e-2)", float).arguments
        (0.0001, 0.01)
        >>> parse("corpus/**/*.md", str)
        ('corpus/**/*.md',)
    """
    plain = text.split(" #")[0].strip()
    if not plain or plain.startswith("#"):
        raise UsageError("no value follows")
    is_text = plain[0] not in "[({'\"" and _takes_text(hint)
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        if is_text:
            return (plain,)
        quotes = "; put quotes around texts in a list" if _takes_text(hint) else ""
        raise UsageError(f"{plain!r} is no value: {error.msg}{quotes}") from None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _distribution(node, plain)
    try:
        value = _literal(node)
    except (ValueError, TypeError):
        if is_text:
            return (plain,)
        raise UsageError(
            f"{plain!r} is no value; write numbers, words, texts in quotes, lists, or "
            f"one of {', '.join(_DRAWS)}"
        ) from None
    if not isinstance(value, list):
        return (value,)
    if not value:
        raise UsageError("the list is empty; give at least one value")
    return tuple(value)


class _Words(ast.NodeTransformer):
    """Turns names into strings, and true and false into what they mean."""

    def visit_Name(self, node: ast.Name) -> ast.Constant:
        """Returns the constant."""
        return ast.Constant(_WORDS.get(node.id, node.id))


def _literal(node: ast.AST) -> Any:
    return ast.literal_eval(_Words().visit(node))


def _takes_text(hint: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return any(isinstance(choice, str) for choice in typing.get_args(hint))
    return hint is str


def _distribution(node: ast.Call, text: str) -> Distribution:
    assert isinstance(node.func, ast.Name)
    name = node.func.id
    if name not in _DRAWS:
        near = difflib.get_close_matches(name, _DRAWS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_DRAWS)}"
        raise UsageError(f"there is no function {name!r}; {hint}")
    try:
        arguments = [_literal(argument) for argument in node.args]
    except (ValueError, TypeError):
        arguments = []
    if node.keywords or not arguments:
        raise UsageError(f"{text!r}: give {name} plain values, without names")
    if name == "choice":
        choices = arguments[0] if isinstance(arguments[0], list) else arguments
        if not choices or (len(arguments) > 1 and choices is not arguments):
            raise UsageError(f"{text!r}: give choice one list of values, or values")
        return Distribution(name, (tuple(choices),))
    numbers = int if name == "int_uniform" else int | float
    if len(arguments) != 2 or not all(
        isinstance(a, numbers) and not isinstance(a, bool) for a in arguments
    ):
        kind = "integers" if name == "int_uniform" else "numbers"
        raise UsageError(f"{text!r}: {name} takes two {kind}, the ends")
    low, high = arguments
    if not low < high or (name == "log_uniform" and low <= 0):
        least = "0 < " if name == "log_uniform" else ""
        raise UsageError(f"{text!r}: the ends must be {least}low < high")
    if name != "int_uniform":
        low, high = float(low), float(high)
    return Distribution(name, (low, high))
