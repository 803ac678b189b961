"""The architecture of a model: every key, its default, and what it means."""

import dataclasses
from typing import Literal

MOST_IDS = 1 << 22  # of any vocabulary; the largest ones have a quarter of it
MOST_TOKENS = 2**31 - 1  # of a batch or a text, which positions must number


@dataclasses.dataclass(frozen=True)
class RopeScalingConfig:
    """How rotations are slowed for texts longer than those of the first training."""

    kind: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0  # linear: scales every wavelength; llama3: the long ones
    low_factor: float = 1.0  # llama3: waves longer than original / this are "long"
    high_factor: float = 4.0  # llama3: waves shorter than original / this are kept
    original_length: int = 8192  # llama3: length of the first training


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer; model families are points in this space."""

    layers: int = 2  # blocks
    width: int = 96  # of the residual stream
    heads: int = 4  # of the queries
    kv_heads: int = 0  # 0: as many as heads
    head_width: int = 0  # 0: width / heads
    ffn_width: int = 0  # 0: 4 * width
    vocab_size: int = 0  # 0: the tokenizer's
    vocab_multiple: int = 64  # the embedding table is padded to a multiple of this
    tie_embeddings: bool = True  # the head is the table of embeddings
    positions: Literal["rope", "learned"] = "rope"  # "learned": a table, as GPT-2 has
    # Learned positions: how many there are. RoPE: how many an exported model declares,
    # and where `generate` stops; 0: it declares 2048 and `generate` has no limit.
    max_length: int = 0
    rope_theta: float = 10_000.0  # the base of the wavelengths
    rope_fraction: float = 1.0  # the share of a head's width to rotate (NeoX: 0.25)
    rope_scaling: RopeScalingConfig = RopeScalingConfig()
    # For layers with a window, without scaling (Gemma 3); 0: the same as other layers.
    local_rope_theta: float = 0.0
    # How many positions a layer attends to, its own included; 0: all up to the start.
    # One per layer, repeated cyclically: (4096,) is Mistral, (4096, 0) is Gemma 2.
    windows: tuple[int, ...] = (0,)
    query_scalar: float = 0.0  # scores are divided by its square root; 0: head width
    attention_softcap: float = 0.0  # c in c * tanh(score / c) (Gemma 2); 0: no cap
    logit_softcap: float = 0.0  # the same for the head's logits
    scale_embeddings: bool = False  # token embeddings times sqrt(width) (Gemma)
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"  # before attention and MLP
    norm_epsilon: float = 1e-5  # added to the variance
    norm_offset: bool = False  # RMSNorm multiplies by 1 + scale (Gemma)
    sandwich_norm: bool = False  # also normalise attention and MLP outputs (Gemma)
    qk_norm: bool = False  # normalise queries and keys per head (Qwen3)
    parallel_residual: bool = False  # attention and MLP read the same input (NeoX)
    mlp: Literal["gated", "plain"] = "gated"  # gated: activation(gate(x)) * up(x)
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "silu"
    qkv_bias: bool = False  # of the projections to queries, keys and values
    out_bias: bool = False  # of the attention's output projection
    mlp_bias: bool = False  # of all projections of the MLP
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation
    # What of a layer backward recomputes: nothing, all, all but the attention's result,
    # or all but the products of matrices. "auto": nothing on CPUs; elsewhere "context"
    # where a kernel computes the attention, or else "block".
    remat: Literal["auto", "none", "block", "context", "dots"] = "auto"
    # The kernel of the attention; "auto" chooses by platform and shape.
    attention: Literal["auto", "xla", "splash", "cudnn"] = "auto"

    @property
    def key_value_heads(self) -> int:
        """`kv_heads`, or its default."""
        return self.kv_heads or self.heads

    @property
    def width_of_head(self) -> int:
        """`head_width`, or its default."""
        return self.head_width or self.width // self.heads

    @property
    def width_of_ffn(self) -> int:
        """`ffn_width`, or its default."""
        return self.ffn_width or 4 * self.width

    @property
    def layer_windows(self) -> tuple[int, ...]:
        """The window of each layer."""
        times = -(-self.layers // len(self.windows))
        return (self.windows * times)[: self.layers]
