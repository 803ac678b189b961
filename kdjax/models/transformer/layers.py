"""The decoder's block: normalisation, attention and MLP as Flax Linen modules."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from kdjax.config.architecture import ModelConfig
from kdjax.models.transformer.attention import Cache, View, attend, narrow, rotate
from kdjax.parallel.placement import Placement

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
INIT_SCALE = 0.02


def dtype_of(config: ModelConfig) -> jnp.dtype:
    """Returns the compute dtype; parameters are initialised in float32."""
    return jnp.dtype(config.dtype)


class OffsetNorm(nn.Module):
    """RMSNorm that multiplies by 1 + scale, as Gemma's checkpoints store it."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Returns x, normalised over the last dimension to mean square 1 and scaled."""
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:])
        plain = nn.RMSNorm(epsilon=self.epsilon, use_scale=False, dtype=jnp.float32)
        scale = jnp.expand_dims(1 + scale.astype(jnp.float32), range(x.ndim - 1))
        return (plain(x) * scale).astype(self.dtype)


def norm(config: ModelConfig, name: str) -> nn.Module:
    """Returns the normalisation layer, which computes its statistics in float32."""
    kind: Callable[..., nn.Module] = OffsetNorm
    if not config.norm_offset:
        kind = {"rmsnorm": nn.RMSNorm, "layernorm": nn.LayerNorm}[config.norm]
    return kind(epsilon=config.norm_epsilon, dtype=dtype_of(config), name=name)


def residual_init(config: ModelConfig) -> nn.initializers.Initializer:
    """Returns GPT-2's initialiser for layers that write to the residual stream."""
    return nn.initializers.normal(INIT_SCALE / (2 * config.layers) ** 0.5)


def flatten(x: Float[Array, "B T *features"]) -> Float[Array, "..."]:
    """Merges the batch and sequence dimensions, on a single device only.

    With two batch dimensions, the weight gradient of a product makes XLA's CPU backend
    transpose a whole activation first; with one it does not. On several devices the
    dimensions stay separate: after this reshape, the partitioner of JAX 0.10 was seen
    to return wrong products for weights sharded along the batch's own mesh axes.
    """
    return x.reshape(-1, *x.shape[2:]) if jax.device_count() == 1 else x


class Attention(nn.Module):
    """Multi-head attention with grouped key-value heads."""

    config: ModelConfig
    placement: Placement

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        view: View,
        cache: Cache | None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Returns the attention output and the updated cache.

        Args:
            x: The normalised residual stream.
            view: Mask and angles over the cache's slots if there is a cache, else over
                x's own positions.
            cache: This layer's keys and values of earlier positions.
        """
        config = self.config
        head_width, kv_heads = config.width_of_head, config.key_value_heads
        project = partial(
            nn.DenseGeneral,
            dtype=dtype_of(config),
            use_bias=config.qkv_bias,
            kernel_init=nn.initializers.normal(INIT_SCALE),
        )
        shape, x = x.shape[:2], flatten(x)
        query = project((config.heads, head_width), name="query")(x)
        key = project((kv_heads, head_width), name="key")(x)
        value = project((kv_heads, head_width), name="value")(x)
        query = query.reshape(*shape, config.heads, head_width)
        key = key.reshape(*shape, kv_heads, head_width)
        value = value.reshape(*shape, kv_heads, head_width)
        if config.qk_norm:
            query = norm(config, "query_norm")(query)
            key = norm(config, "key_norm")(key)
        if view.angles is not None:
            query, key = rotate(query, view.angles), rotate(key, view.angles)
        if cache is not None:
            key, value = cache = cache.write(key, value, view.slots)
        mixed = attend(query, key, value, view, config, self.placement)
        out = nn.DenseGeneral(
            config.width,
            axis=(-2, -1),
            dtype=dtype_of(config),
            use_bias=config.out_bias,
            kernel_init=residual_init(config),
            name="out",
        )
        return out(flatten(mixed)).reshape(*shape, config.width), cache


class Mlp(nn.Module):
    """The position-wise network, gated (arXiv:2002.05202) or plain."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Returns the MLP's output at each position."""
        config = self.config
        dense = partial(nn.Dense, dtype=dtype_of(config), use_bias=config.mlp_bias)
        wide = partial(
            dense,
            config.width_of_ffn,
            kernel_init=nn.initializers.normal(INIT_SCALE),
        )
        activation = ACTIVATIONS[config.activation]
        shape, x = x.shape, flatten(x)
        if config.mlp == "gated":
            inner = activation(wide(name="gate")(x)) * wide(name="up")(x)
        else:
            inner = activation(wide(name="up")(x))
        down = dense(config.width, kernel_init=residual_init(config), name="down")
        return down(inner).reshape(shape)


class Block(nn.Module):
    """One layer; shaped for `nn.scan`, with the residual stream as its carry."""

    config: ModelConfig
    placement: Placement

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        window: Int[Array, ""] | None,
        view: View,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Returns the residual stream after this layer, and the layer's cache.

        Args:
            x: The residual stream before this layer.
            window: This layer's window, if the layers' windows differ.
            view: Mask, positions and rotation angles.
            cache: The layer's keys and values of earlier positions; None: positions
                attend within x only.
        """
        config = self.config
        if window is not None:
            view = narrow(view, window)
        attention = Attention(config, self.placement, name="attention")
        mlp = Mlp(config, name="mlp")
        gather, scatter = self.placement.gather, self.placement.scatter

        def written(y: Array, name: str) -> Array:
            y = scatter(y)
            return norm(config, name)(y) if config.sandwich_norm else y

        normed = gather(norm(config, "attention_norm")(x))
        mixed, cache = attention(normed, view, cache)
        mixed = written(mixed, "attention_post_norm")
        if config.parallel_residual:
            inner = mlp(gather(norm(config, "mlp_norm")(x)))
            x = x + mixed + written(inner, "mlp_post_norm")
        else:
            x = x + mixed
            inner = mlp(gather(norm(config, "mlp_norm")(x)))
            x = x + written(inner, "mlp_post_norm")
        return self.placement.activation(x), cache
