"""The decoder-only transformer: embeddings, scanned blocks, final norm."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from kdjax.config.architecture import ModelConfig
from kdjax.config.devices import remat_of
from kdjax.models.transformer.attention import Cache, View, narrow
from kdjax.models.transformer.kernels import CONTEXT
from kdjax.models.transformer.layers import INIT_SCALE, Block, dtype_of, norm
from kdjax.parallel.placement import Placement, name_of

STATISTICS = "statistics"  # the collection that observers sow into; else empty


def table_size(config: ModelConfig) -> int:
    """Returns the number of rows of the embedding table: the padded vocabulary."""
    return -(-config.vocab_size // config.vocab_multiple) * config.vocab_multiple


class Embed(nn.Module):
    """Token embeddings, plus learned position embeddings if the config has them."""

    config: ModelConfig
    placement: Placement

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Returns the initial residual stream."""
        config = self.config
        x = self._rows("tokens", table_size(config), tokens)
        if config.scale_embeddings:
            x = x * jnp.asarray(config.width**0.5, x.dtype)
        if config.positions == "learned":
            x = x + self._rows("positions", config.max_length, positions)
        return x

    def _rows(
        self, name: str, rows: int, which: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        init = nn.initializers.normal(INIT_SCALE)
        table = self.param(name, init, (rows, self.config.width))
        dtype = dtype_of(self.config)
        return self.placement.lookup(f"embed/{name}", table, which, dtype)


class UntiedHead(nn.Module):
    """Holds the output matrix, which `losses.apply_head` applies."""

    config: ModelConfig

    @nn.compact
    def __call__(self) -> None:
        """Declares the parameter."""
        shape = (self.config.width, table_size(self.config))
        self.param("kernel", nn.initializers.normal(INIT_SCALE), shape)


class Decoder(nn.Module):
    """Maps tokens to the last hidden states, in training and in decoding."""

    config: ModelConfig
    placement: Placement

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], view: View, cache: Cache | None = None
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Returns the hidden states that the head reads, and the cache.

        Args:
            tokens: One per position.
            view: Shared by all layers, before any window narrows it.
            cache: Holds all layers, which are scanned along with their parameters.
        """
        config = self.config
        embed = Embed(config, self.placement, name="embed")
        x = self.placement.activation(embed(tokens, view.positions))
        windows = None
        if len(set(config.layer_windows)) > 1:
            windows = jnp.array(config.layer_windows)
        elif config.windows[0]:
            view = narrow(view, jnp.array(config.windows[0]))
        layers = nn.scan(
            _layer(config, self.placement, self.is_initializing(), view.mask is None),
            variable_axes={"params": 0, STATISTICS: 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast if windows is None else 0, nn.broadcast, 0),
            length=config.layers,
        )(config, self.placement, name="layers")
        x, cache = layers(x, windows, view, cache)
        if not config.tie_embeddings:
            UntiedHead(config, name="head")()
        return self.placement.gather(norm(config, "final_norm")(x)), cache


def _layer(
    config: ModelConfig, placement: Placement, is_init: bool, is_blockwise: bool
) -> Any:
    """Returns the block with its weights placed at use and its remat policy."""

    def place(variables: Any) -> Any:
        def one(path: Any, weight: Array) -> Array:
            return placement.weight(f"layers/{name_of(path[1:])}", weight)

        return jax.tree_util.tree_map_with_path(one, variables)

    block = nn.map_variables(Block, "params", place, init=is_init)
    platform = placement.devices.platform if placement.devices else "cpu"
    remat = remat_of(config, platform, is_blockwise=is_blockwise)
    if remat == "none":
        return block
    policy = {
        "block": None,
        "context": jax.checkpoint_policies.save_only_these_names(CONTEXT),
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }[remat]
    # XLA's CSE cannot undo rematerialisation inside a scan, so prevent_cse would only
    # cost speed.
    return nn.remat(block, policy=policy, prevent_cse=False)
