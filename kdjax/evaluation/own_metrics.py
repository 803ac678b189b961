"""The user's own metrics of a token: functions that a config names."""

import contextlib
import dataclasses
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.core.errors import UsageError
from kdjax.evaluation.held_out import OwnMetrics
from kdjax.losses import TokenMetric, Vocabulary
from kdjax.results.measured import HeldOut

_TAKEN = {"confidence", "correct", "bin_confidence", "bin_accuracy", "perplexity"} | {
    field.name for field in dataclasses.fields(HeldOut)
}
_TOKENS, _IDS = 3, 5  # of the distribution that a function is tried on


def load_metrics(names: Sequence[str], key: str) -> OwnMetrics:
    """Returns the metrics that `package.module:function` name, by their functions.

    Modules are looked for in the current directory as well. Each function is traced
    once, so that a mistake in it is found before anything is trained.

    Args:
        names: The metrics.
        key: The flag or key that names them, for messages.

    Raises:
        UsageError: There is no such function, or it is no metric of a token.
    """
    functions = [name.partition(":")[2] for name in names]
    for name, function in zip(names, functions, strict=True):
        if not function.isidentifier():
            raise UsageError(f"{key}: {name!r} must be 'package.module:function'")
        if function in _TAKEN or functions.count(function) > 1:
            raise UsageError(
                f"{key}: the name {function!r} is taken by another metric; rename the "
                "function"
            )
    with _here():
        return tuple((name.partition(":")[2], _load(name, key)) for name in names)


def _load(name: str, key: str) -> TokenMetric:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function, None)
    # It is the user's own code: whatever it raises is for the user to fix.
    except Exception as error:
        raise UsageError(
            f"{key}: {module!r} cannot be imported ({_said(error)})"
        ) from None
    if not callable(found):
        raise UsageError(f"{key}: the module {module!r} has no function {function!r}")
    _try(found, f"{key}: {name}")
    metric: TokenMetric = found
    return metric


def _try(function: Any, where: str) -> None:
    """Raises unless a function returns a number per token."""

    def values(logits: jax.Array, labels: jax.Array) -> Any:
        over = Vocabulary()
        return function(over.softmax(logits), labels, over)

    logits = jax.ShapeDtypeStruct((_TOKENS, _IDS), jnp.float32)
    labels = jax.ShapeDtypeStruct((_TOKENS,), jnp.int32)
    try:
        found = jax.eval_shape(values, logits, labels)
    except Exception as error:
        raise UsageError(
            f"{where} fails when it is called as metric(q, labels, over) "
            f"({_said(error)})"
        ) from None
    shape = getattr(found, "shape", None)
    if shape != (_TOKENS,):
        what = (
            f"an array of shape {list(shape)}"
            if shape is not None
            else "something else"
        )
        raise UsageError(
            f"{where} must return one number per token, [{_TOKENS}] of {_TOKENS} "
            f"tokens; it returns {what}"
        )


@contextlib.contextmanager
def _here() -> Iterator[None]:
    """Lets modules of the current directory be imported."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _said(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {text}".removesuffix(": ")
