"""`Model`: what the rest of kdjax knows of a network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax.config import ModelConfig
from kdjax.losses import Head, apply_head
from kdjax.models.decoder import Decoder
from kdjax.placement import Placement

Params = Any


class Model(NamedTuple):
    """A language model as four pure functions of its parameters.

    Attributes:
        config: What it was built from.
        init: `init(key) -> params`.
        hidden: `hidden(params, tokens, segments=None) -> [B, T, D]`, the last hidden
            states in the computation's dtype. Positions of different segments do not
            see each other; no segments means one document a row.
        head: `head(params) -> Head`.
        logits: `logits(params, tokens, segments=None) -> [B, T, V]` in float32.
    """

    config: ModelConfig
    init: Callable[[jax.Array], Params]
    hidden: Callable[..., Array]
    head: Callable[[Params], Head]
    logits: Callable[..., Array]


def build(config: ModelConfig, *, placement: Placement | None = None) -> Model:
    """Returns the decoder that the config describes.

    Args:
        config: The architecture, with `vocab_size` filled in.
        placement: Where activations and parameters live while they are used; without
            one the compiler decides.

    Raises:
        ValueError: `vocab_size` is not set.

    Example:
        >>> model = build(ModelConfig(layers=1, width=16, heads=2, vocab_size=10))
        >>> params = model.init(jax.random.key(0))
        >>> model.logits(params, jnp.zeros((2, 5), jnp.int32)).shape
        (2, 5, 64)
    """
    if config.vocab_size < 1:
        raise ValueError("vocab_size is not set; fill it in from the tokenizer")
    placement = placement or Placement()
    module = Decoder(config, placement)

    def init(key: jax.Array) -> Params:
        tokens = jnp.zeros((1, 2), jnp.int32)
        return module.init(key, tokens, tokens)["params"]

    def hidden(
        params: Params,
        tokens: Int[Array, "B T"],
        segments: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        if segments is None:
            segments = jnp.ones_like(tokens)
        return module.apply({"params": params}, tokens, segments)  # type: ignore[return-value]

    def head(params: Params) -> Head:
        # As it is stored: the losses gather it themselves, and a constraint here would
        # gather its gradient as well.
        if config.tie_embeddings:
            kernel = params["embed"]["tokens"].T
        else:
            kernel = params["head"]["kernel"]
        cap = config.logit_softcap or None
        return Head(kernel, softcap=cap, valid=config.vocab_size)

    def logits(
        params: Params,
        tokens: Int[Array, "B T"],
        segments: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T V"]:
        if config.tie_embeddings:
            table = placement.weight("embed/tokens", params["embed"]["tokens"])
            placed = params | {"embed": params["embed"] | {"tokens": table}}
        else:
            table = placement.weight("head/kernel", params["head"]["kernel"])
            placed = params | {"head": {"kernel": table}}
        return apply_head(head(placed), hidden(params, tokens, segments))

    return Model(config, init, hidden, head, logits)
