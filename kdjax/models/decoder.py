"""The decoder-only transformer: embeddings, scanned blocks, final norm."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from kdjax.config import ModelConfig
from kdjax.models.attention import causal_mask, rope_angles, segment_positions
from kdjax.models.layers import INIT_SCALE, Block, dtype_of, norm


def table_size(config: ModelConfig) -> int:
    """Returns the rows of the embedding table: the vocabulary, padded."""
    return -(-config.vocab_size // config.vocab_multiple) * config.vocab_multiple


class Embed(nn.Module):
    """Token embeddings, plus learned positions where the config has them."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Returns the entrance to the residual stream."""
        config = self.config
        init = nn.initializers.normal(INIT_SCALE)
        table = self.param("tokens", init, (table_size(config), config.width))
        x = table.astype(dtype_of(config))[tokens]
        if config.positions == "learned":
            table = self.param("positions", init, (config.max_length, config.width))
            x = x + table.astype(x.dtype)[positions]
        return x


class UntiedHead(nn.Module):
    """Holds the output matrix; `losses.apply_head` uses it."""

    config: ModelConfig

    @nn.compact
    def __call__(self) -> None:
        """Declares the parameter."""
        shape = (self.config.width, table_size(self.config))
        self.param("kernel", nn.initializers.normal(INIT_SCALE), shape)


class Decoder(nn.Module):
    """Tokens in, last hidden states out."""

    config: ModelConfig
    constrain: Callable[[Array], Array]

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], segments: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Returns the hidden states that the head reads."""
        config = self.config
        positions = segment_positions(segments)
        x = self.constrain(Embed(config, name="embed")(tokens, positions))
        angles = None
        if config.positions == "rope":
            head_width = config.head_width or config.width // config.heads
            rotated = int(head_width * config.rope_fraction)
            angles = rope_angles(positions, rotated, config.rope_theta)
        layers = nn.scan(
            _rematerialised(config),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=config.layers,
        )(config, self.constrain, name="layers")
        x, _ = layers(x, causal_mask(segments), angles)
        if not config.tie_embeddings:
            UntiedHead(config, name="head")()
        return norm(config, "final_norm")(x)


def _rematerialised(config: ModelConfig) -> Any:
    """Returns the block with the config's trade of memory against recomputation."""
    if config.remat == "none":
        return Block
    policy = {
        "block": None,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }[config.remat]
    # Inside a scan XLA cannot merge the recomputation away, so the guard against
    # that (prevent_cse) would only cost speed.
    return nn.remat(Block, policy=policy, prevent_cse=False)
