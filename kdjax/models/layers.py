"""The decoder's block: normalisation, attention and MLP as Flax Linen modules."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from kdjax.config import ModelConfig
from kdjax.models.attention import attend, rotate

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
INIT_SCALE = 0.02


class Placement(NamedTuple):
    """Where arrays live while a model runs; by default wherever they are.

    Attributes:
        activation: Applied to the residual stream [B, T, D] at the entrance and after
            every block.
        weight: Applied to (path, parameter) where it is used; the parameters of a
            block come without the leading layer axis.
    """

    activation: Callable[[Array], Array] = lambda x: x
    weight: Callable[[str, Array], Array] = lambda path, x: x


def dtype_of(config: ModelConfig) -> jnp.dtype:
    """Returns the computation's dtype; parameters are always float32."""
    return jnp.dtype(config.dtype)


def norm(config: ModelConfig, name: str) -> nn.Module:
    """Returns the normalisation layer; its statistics run in float32."""
    kind = {"rmsnorm": nn.RMSNorm, "layernorm": nn.LayerNorm}[config.norm]
    return kind(epsilon=config.norm_epsilon, dtype=dtype_of(config), name=name)


def residual_init(config: ModelConfig) -> nn.initializers.Initializer:
    """Returns GPT-2's initialiser for layers that write to the residual stream."""
    return nn.initializers.normal(INIT_SCALE / (2 * config.layers) ** 0.5)


def flatten(x: Float[Array, "B T *features"]) -> Float[Array, "..."]:
    """Returns the tokens of all rows in one dimension, if there is one device.

    The weight gradient of a product over two batch dimensions makes XLA's CPU backend
    transpose a whole activation first; over one it does not. On several devices the
    rows stay apart: behind this reshape the partitioner of jax 0.10 was seen to return
    wrong products for weights that are cut along the batch's own axes.
    """
    return x.reshape(-1, *x.shape[2:]) if jax.device_count() == 1 else x


class Attention(nn.Module):
    """Multi-head attention with grouped key-value heads."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "B 1 T T"],
        angles: Float[Array, "B T R"] | None,
    ) -> Float[Array, "B T D"]:
        """Returns what the positions gather from those they may see."""
        config = self.config
        head_width, kv_heads = config.width_of_head, config.key_value_heads
        project = partial(
            nn.DenseGeneral,
            dtype=dtype_of(config),
            use_bias=config.qkv_bias,
            kernel_init=nn.initializers.normal(INIT_SCALE),
        )
        shape, x = x.shape[:2], flatten(x)
        query, key, value = (
            project((heads, head_width), name=name)(x).reshape(
                *shape, heads, head_width
            )
            for name, heads in (
                ("query", config.heads),
                ("key", kv_heads),
                ("value", kv_heads),
            )
        )
        if config.qk_norm:
            query, key = (
                norm(config, "query_norm")(query),
                norm(config, "key_norm")(key),
            )
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        mixed = attend(query, key, value, mask, implementation=config.attention)
        return nn.DenseGeneral(
            config.width,
            axis=(-2, -1),
            dtype=dtype_of(config),
            use_bias=config.out_bias,
            kernel_init=residual_init(config),
            name="out",
        )(flatten(mixed)).reshape(*shape, config.width)


class Mlp(nn.Module):
    """The position-wise network, gated (arXiv:2002.05202) or plain."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Returns the transformed positions."""
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
        mask: Bool[Array, "B 1 T T"],
        angles: Float[Array, "B T R"] | None,
    ) -> tuple[Float[Array, "B T D"], None]:
        """Returns the residual stream after this layer."""
        config = self.config
        attention = Attention(config, name="attention")
        mlp = Mlp(config, name="mlp")
        mixed = attention(norm(config, "attention_norm")(x), mask, angles)
        if config.parallel_residual:
            x = x + mixed + mlp(norm(config, "mlp_norm")(x))
        else:
            x = x + mixed
            x = x + mlp(norm(config, "mlp_norm")(x))
        return self.placement.activation(x), None
