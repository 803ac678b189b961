"""A model's floating-point operations, and the devices' peak rate."""

from collections.abc import Iterable

import jax

from kdjax.config.architecture import ModelConfig
from kdjax.parallel.chips import of_kind


def forward_flops(config: ModelConfig, length: int) -> float:
    """Returns the forward FLOPs per token in rows of `length` tokens.

    Counts the matrix products, including the head's, at two FLOPs per multiply-add. As
    is customary, attention scores count in full although half of them are masked.

    Example:
        >>> model = ModelConfig(layers=1, width=4, heads=1, ffn_width=8, mlp="plain",
        ...                     vocab_size=16)
        >>> forward_flops(model, length=2)  # 2 * (4*16 + 2*4*8 + 4*16) + 4*2*4
        416.0
    """
    heads = config.heads * config.width_of_head
    kv = config.key_value_heads * config.width_of_head
    matrices = 2 if config.mlp == "plain" else 3
    layer = config.width * (2 * heads + 2 * kv + matrices * config.width_of_ffn)
    head = config.width * config.vocab_size
    attention = 4 * length * heads * config.layers
    return float(2 * (config.layers * layer + head) + attention)


def training_flops(
    model: ModelConfig, teachers: Iterable[ModelConfig], length: int
) -> float:
    """Returns the FLOPs of a train step per token in rows of `length` tokens.

    The backward pass costs two forward passes; teachers have none.
    """
    return 3 * forward_flops(model, length) + sum(
        forward_flops(teacher, length) for teacher in teachers
    )


def peak_flops() -> float | None:
    """Returns the peak bfloat16 FLOP/s of all devices together; None if unknown."""
    chip = of_kind(jax.devices()[0].device_kind)
    return chip and chip.flops * jax.device_count()
