"""The decoder-only transformer: embeddings, scanned blocks, final norm."""

from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from kdjax.config import ModelConfig
from kdjax.models.attention import causal_mask, rope_angles, segment_positions
from kdjax.models.layers import INIT_SCALE, Block, Placement, dtype_of, norm


def table_size(config: ModelConfig) -> int:
    """Returns the rows of the embedding table: the vocabulary, padded."""
    return -(-config.vocab_size // config.vocab_multiple) * config.vocab_multiple


class Embed(nn.Module):
    """Token embeddings, plus learned positions where the config has them."""

    config: ModelConfig
    placement: Placement

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Returns the entrance to the residual stream."""
        config = self.config
        x = self._table("tokens", table_size(config))[tokens]
        if config.positions == "learned":
            x = x + self._table("positions", config.max_length)[positions]
        return x

    def _table(self, name: str, rows: int) -> Float[Array, "V D"]:
        init = nn.initializers.normal(INIT_SCALE)
        table = self.param(name, init, (rows, self.config.width))
        table = self.placement.weight(f"embed/{name}", table)
        return table.astype(dtype_of(self.config))


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
    placement: Placement

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], segments: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Returns the hidden states that the head reads."""
        config = self.config
        positions = segment_positions(segments)
        embed = Embed(config, self.placement, name="embed")
        x = self.placement.activation(embed(tokens, positions))
        angles = None
        if config.positions == "rope":
            rotated = int(config.width_of_head * config.rope_fraction)
            angles = rope_angles(positions, rotated, config.rope_theta)
        layers = nn.scan(
            _layer(config, self.placement, self.is_initializing()),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=config.layers,
        )(config, self.placement, name="layers")
        x, _ = layers(x, causal_mask(segments), angles)
        if not config.tie_embeddings:
            UntiedHead(config, name="head")()
        return norm(config, "final_norm")(x)


def _layer(config: ModelConfig, placement: Placement, is_init: bool) -> Any:
    """Returns the block, its weights placed as they are used, maybe rematerialised."""

    def place(variables: Any) -> Any:
        def one(path: Any, weight: Array) -> Array:
            name = jax.tree_util.keystr(path[1:], simple=True, separator="/")
            return placement.weight(f"layers/{name}", weight)

        return jax.tree_util.tree_map_with_path(one, variables)

    block = nn.map_variables(Block, "params", place, init=is_init)
    if config.remat == "none":
        return block
    policy = {
        "block": None,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }[config.remat]
    # Inside a scan XLA cannot merge the recomputation away, so the guard against
    # that (prevent_cse) would only cost speed.
    return nn.remat(block, policy=policy, prevent_cse=False)
