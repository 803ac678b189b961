"""Which kernel computes the attention: chosen by platform, shape and options."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax.config.architecture import ModelConfig
from kdjax.models.transformer.splash import CONTEXT as CONTEXT
from kdjax.models.transformer.splash import attend_blockwise
from kdjax.parallel.placement import Devices, Placement

Kernel = Literal["xla", "splash"]

_SHORTEST = 128  # length of a row from which on a kernel of blocks is worth its while


def choose(config: ModelConfig, placement: Placement, shape: tuple[int, ...]) -> Kernel:
    """Returns the kernel for rows that attend within themselves.

    Args:
        config: The model's.
        placement: Where it runs.
        shape: Rows and their length.
    """
    devices = placement.devices
    if devices is None or config.attention in ("xla", "cudnn"):
        return "xla"
    is_tpu = devices.platform == "tpu" or config.attention == "splash"
    return "splash" if is_tpu and _is_cut(config, devices, shape) else "xla"


def _is_cut(config: ModelConfig, devices: Devices, shape: tuple[int, ...]) -> bool:
    """Returns whether every device has whole rows and heads, and blocks to fill."""
    rows, length = shape
    return (
        length >= _SHORTEST
        and not rows % devices.rows()
        and not config.key_value_heads % devices.heads
    )


def run(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B T G K"],
    value: Float[Array, "B T G K"],
    segments: Int[Array, "B T"],
    window: Int[Array, ""] | None,
    config: ModelConfig,
    devices: Devices,
) -> Float[Array, "B T H K"]:
    """Returns causal attention within segments by the kernel of blocks.

    Args:
        query: One vector per head.
        key: One vector per key-value head; H is a multiple of G.
        value: One vector per key-value head.
        segments: Positions attend to those of their own segment.
        window: That of the layer, if the layers' windows differ.
        config: The model's.
        devices: Each computes its own rows and heads.
    """

    def of_window(size: int) -> Array:
        def local(*arrays: Array) -> Array:
            return attend_blockwise(
                *arrays,
                scale=(config.query_scalar or query.shape[-1]) ** -0.5,
                softcap=config.attention_softcap,
                window=size,
                interpret=devices.platform != "tpu",
            )

        return devices.local(local)(query, key, value, segments)

    # A kernel's window is part of its program.
    sizes = sorted(set(config.layer_windows))
    if len(sizes) == 1:
        return of_window(sizes[0])
    assert window is not None
    which = jnp.searchsorted(jnp.array(sizes), window)
    return jax.lax.switch(which, [lambda n=n: of_window(n) for n in sizes])
