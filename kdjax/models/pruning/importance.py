"""How much the parts of a decoder matter, measured on rows of text.

`prune` chooses by these scores. They take one forward pass per batch and no training.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from kdjax.config.architecture import ModelConfig
from kdjax.models.model import Params
from kdjax.models.transformer.attention import make_view
from kdjax.models.transformer.decoder import STATISTICS, Decoder
from kdjax.models.transformer.layers import Block
from kdjax.parallel.placement import Placement

# The norms that read the residual stream, and all norms over vectors of width D.
_READERS = ("attention_norm", "mlp_norm", "final_norm")
_NORMS = (*_READERS, "attention_post_norm", "mlp_post_norm")


class Importance(NamedTuple):
    """Importance scores, comparable among parts of the same kind.

    Attributes:
        layers: [N], block influence: 1 - cosine of a block's input and output
            (ShortGPT, arXiv:2403.03853).
        width: [D], mean square of a channel after the norms that read it.
        heads: [N, H], mean square of what a head writes to the residual stream.
        ffn: [N, F], the same for a channel of the MLP.
        powers: For each norm, [D] or [N, D], the mean square of its input (for a
            layernorm, less the mean).
    """

    layers: np.ndarray
    width: np.ndarray
    heads: np.ndarray
    ffn: np.ndarray
    powers: Mapping[str, np.ndarray]


def measure(
    config: ModelConfig,
    params: Params,
    batches: Iterable[Mapping[str, Array]],
    *,
    placement: Placement | None = None,
) -> Importance:
    """Returns the importance of every layer, channel and head on given rows.

    Channels and heads are scored by the power of their activations, as in Minitron
    (arXiv:2407.14679), times the power of the weights that read them, so that an
    activation that nothing reads does not count (Wanda, arXiv:2306.11695).

    Args:
        config: The model's architecture, with `vocab_size` filled in.
        params: Its parameters, on any devices.
        batches: Rows as {"tokens": [B, T], "segments": [B, T]}; padding, segment 0,
            does not count.
        placement: As for `build`.

    Raises:
        ValueError: The batches contain no tokens.
    """
    total: Any = None
    observe = _observe(config, placement or Placement())
    for batch in batches:
        sums = observe(params, batch["tokens"], batch["segments"])
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    if total is None or not int(total["count"]):
        raise ValueError("there are no tokens to measure importance on")
    return _importance(config, params, total)


def _importance(config: ModelConfig, params: Params, total: Any) -> Importance:
    """Turns sums over tokens into importances, on the host of every process."""

    def reduce(params: Params, total: Any) -> dict[str, Any]:
        mean = jax.tree.map(lambda x: x / total["count"], total["sums"])
        layers, weights = mean["layers"], params["layers"]
        heads = layers["attention"]["out"]["read"]
        ffn = layers["mlp"]["down"]["read"]
        norms = {**layers, "final_norm": mean["final_norm"]}
        behind = [norms[name]["given"].reshape(-1, config.width) for name in _READERS]
        return {
            "layers": 1 - layers["cosine"],
            "width": jnp.concatenate(behind).sum(0),
            "heads": (heads * _power(weights["attention"]["out"]["kernel"])).sum(-1),
            "ffn": ffn * _power(weights["mlp"]["down"]["kernel"]),
            "powers": {name: norms[name]["read"] for name in _NORMS if name in norms},
        }

    sharding = total["count"].sharding
    everywhere = None
    if isinstance(sharding, NamedSharding):
        everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    reduced = jax.jit(reduce, out_shardings=everywhere)(params, total)
    return Importance(**jax.tree.map(np.asarray, reduced))


def _power(x: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
    return jnp.square(x.astype(jnp.float32)).sum(-1)


def _observe(config: ModelConfig, placement: Placement) -> Callable[..., Any]:
    """Returns a jitted forward pass that sums activation statistics over tokens."""
    module = Decoder(config, placement)

    def observe(params: Params, tokens: Array, segments: Array) -> Any:
        is_token, view = segments > 0, make_view(config, segments, placement)
        with nn.intercept_methods(_observer(config, is_token)):
            _, seen = module.apply(
                {"params": params}, tokens, view, mutable=[STATISTICS]
            )
        return {"sums": seen[STATISTICS], "count": is_token.sum()}

    return jax.jit(observe)


def _observer(config: ModelConfig, is_token: Array) -> Callable[..., Any]:
    """Returns a Flax method interceptor that sows sums over tokens."""

    def total(x: Array, features: int) -> Array:
        """Sums over tokens, which span one dimension or two."""
        lead = tuple(range(x.ndim - features))
        counted = is_token.reshape(x.shape[: len(lead)] + (1,) * features)
        return jnp.where(counted, x, 0).sum(lead)

    def observe(
        call: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        given = call(*arguments, **options)
        module = context.module
        if context.method_name != "__call__" or not arguments:
            return given

        def sow(name: str, sums: Array) -> None:
            module.sow(STATISTICS, name, sums, reduce_fn=_last, init_fn=_nothing)

        read = arguments[0].astype(jnp.float32)
        if module.name in _NORMS:
            if config.norm == "layernorm":
                read = read - read.mean(-1, keepdims=True)
            sow("read", total(jnp.square(read), 1))
            sow("given", total(jnp.square(given.astype(jnp.float32)), 1))
        elif module.name in ("out", "down"):
            sow("read", total(jnp.square(read), 2 if module.name == "out" else 1))
        elif isinstance(module, Block):
            sow("cosine", total(_cosine(read, given[0].astype(jnp.float32)), 0))
        return given

    return observe


def _cosine(x: Float[Array, "B T D"], y: Float[Array, "B T D"]) -> Float[Array, "B T"]:
    norms = jnp.sqrt(_power(x) * _power(y))
    return (x * y).sum(-1) / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny)


def _last(_: Any, value: Array) -> Array:
    return value


def _nothing() -> None:
    return None
