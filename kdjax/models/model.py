"""`Model`: the interface through which the rest of kdjax uses a network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax.config.architecture import ModelConfig
from kdjax.losses import Head, apply_head
from kdjax.models.transformer.attention import (
    Cache,
    create_cache,
    make_cached_view,
    make_view,
)
from kdjax.models.transformer.decoder import Decoder
from kdjax.parallel.placement import Placement

Params = Any


class Model(NamedTuple):
    """A language model as pure functions of its parameters.

    Attributes:
        config: The architecture that it was built from.
        init: `init(key) -> params`.
        hidden: `hidden(params, tokens, segments=None) -> [B, T, D]`, the last hidden
            states in the compute dtype. Positions of different segments do not attend
            to each other; without segments, each row is one document.
        head: `head(params) -> Head`.
        logits: `logits(params, tokens, segments=None) -> [B, T, V]` in float32, V being
            `config.vocab_size` whatever padding the tables have.
        init_cache: `init_cache(batch, length) -> cache`, a pytree with room for
            `length` positions of each row. None: the model cannot decode.
        decode: `decode(params, cache, tokens, positions) -> ([B, T, D], cache)`, the
            hidden states of tokens [B, T] at positions [B, T]. Each row is one document
            that continues from the cache. Rows of different lengths are padded on the
            right; later tokens overwrite the padding's cache entries.
    """

    config: ModelConfig
    init: Callable[[jax.Array], Params]
    hidden: Callable[..., Array]
    head: Callable[[Params], Head]
    logits: Callable[..., Array]
    init_cache: Callable[[int, int], Any] | None = None
    decode: Callable[..., tuple[Array, Any]] | None = None


def build(config: ModelConfig, *, placement: Placement | None = None) -> Model:
    """Returns the decoder that the config describes.

    Args:
        config: The architecture, with `vocab_size` filled in.
        placement: The sharding of activations and parameters in use; by default the
            compiler decides.

    Raises:
        ValueError: `vocab_size` is not set.

    Example:
        >>> model = build(ModelConfig(layers=1, width=16, heads=2, vocab_size=10))
        >>> params = model.init(jax.random.key(0))
        >>> model.logits(params, jnp.zeros((2, 5), jnp.int32)).shape
        (2, 5, 10)
    """
    if config.vocab_size < 1:
        raise ValueError("vocab_size is not set; fill it in from the tokenizer")
    placement = placement or Placement()
    module = Decoder(config, placement)

    def init(key: jax.Array) -> Params:
        tokens = jnp.zeros((1, 2), jnp.int32)
        return module.init(key, tokens, make_view(config, tokens, Placement()))[
            "params"
        ]

    def hidden(
        params: Params,
        tokens: Int[Array, "B T"],
        segments: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        tokens = jnp.asarray(tokens)
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(
                f"tokens must be ids [B, T], a row for each text; they are "
                f"{tokens.dtype}{list(tokens.shape)}"
            )
        if segments is None:
            segments = jnp.ones_like(tokens)
        view = make_view(config, segments, placement)
        return module.apply({"params": params}, tokens, view)[0]

    def init_cache(batch: int, length: int) -> Cache:
        return create_cache(config, batch, length)

    def decode(
        params: Params,
        cache: Cache,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
    ) -> tuple[Float[Array, "B T D"], Cache]:
        view = make_cached_view(config, positions, cache.keys.shape[2])
        return module.apply({"params": params}, tokens, view, cache)  # type: ignore[return-value]

    def head(params: Params) -> Head:
        # Sharded as it is stored: the losses gather it themselves, and a constraint
        # here would gather its gradient as well.
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

    return Model(config, init, hidden, head, logits, init_cache, decode)
