"""The architectures of GGUF files: their metadata and their tensors, one table each.

The tables serve both directions, reading and writing. They follow llama.cpp, whose
loader (`src/llama-model.cpp`) decides what a key means.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Values = Mapping[str, Any]
# A default: a value, a function of the values read before, or None for "required".
Default = int | float | Callable[[Values], int] | None


class Row(NamedTuple):
    """A key of the metadata and the key of `config.json` that means the same.

    Attributes:
        key: Without the architecture's prefix.
        name: The key in `config.json`.
        kind: `int` or `float`.
        default: What llama.cpp assumes if the key is absent.
    """

    key: str
    name: str
    kind: type
    default: Default = None


class Architecture(NamedTuple):
    """What a GGUF file says of one architecture.

    Attributes:
        families: The `model_type`s in `config.json` that are stored as it.
        rows: The keys that hold a value of `config.json`.
        equal: The keys that must repeat another value, given by its name in
            `config.json`, where llama.cpp computes one function only.
        names: Each parameter's tensor.
        layouts: The layouts that differ from those of the safetensors.
        biased: The optional biases, as the flags of `config.json` and a tensor each.
        tied: Whether the head is always the embedding.
        windows: Every how many layers one has full attention; 0: there are no windows.
        neutral: Further keys with the only values that kdjax supports.
    """

    families: tuple[str, ...]
    rows: tuple[Row, ...]
    equal: Mapping[str, str]
    names: Mapping[str, str]
    layouts: Mapping[str, str] = {}
    biased: Mapping[str, str] = {}
    tied: bool = False
    windows: int = 0
    neutral: Mapping[str, tuple[Any, ...]] = {}


def _heads(values: Values) -> int:
    return int(values["num_attention_heads"])


def _head_width(values: Values) -> int:
    return int(values["hidden_size"] // max(_heads(values), 1))


_SIZES = (
    Row("block_count", "num_hidden_layers", int),
    Row("embedding_length", "hidden_size", int),
    Row("feed_forward_length", "intermediate_size", int),
    Row("attention.head_count", "num_attention_heads", int),
    Row("attention.head_count_kv", "num_key_value_heads", int, _heads),
    Row("attention.key_length", "head_dim", int, _head_width),
    Row("context_length", "max_position_embeddings", int),
    Row("attention.layer_norm_rms_epsilon", "rms_norm_eps", float),
    Row("rope.freq_base", "rope_theta", float, 1e4),
)
_GLOBAL_AND_LOCAL = (
    *_SIZES[:-1],
    # Early files lack what the models of then shared.
    Row("rope.freq_base", "rope_theta", float, 1e6),
    Row("rope.freq_base_swa", "rope_local_base_freq", float, 1e4),
)
_WINDOW = Row("attention.sliding_window", "sliding_window", int, 0)
SOFT_CAPS = "attn_logit_softcapping", "final_logit_softcapping"
_WIDTHS = {
    "attention.value_length": "head_dim",
    "attention.key_length_swa": "head_dim",
    "attention.value_length_swa": "head_dim",
    "rope.dimension_count": "head_dim",
    "rope.dimension_count_swa": "head_dim",
    "embedding_length_out": "hidden_size",
}
_ONE_THETA = {**_WIDTHS, "rope.freq_base_swa": "rope_theta"}
_EMBEDDINGS = {
    "embed/tokens": "token_embd.weight",
    "embed/positions": "position_embd.weight",
    "final_norm/scale": "output_norm.weight",
    "final_norm/bias": "output_norm.bias",
    "head/kernel": "output.weight",
}
_NAMES = {
    **_EMBEDDINGS,
    "attention_norm": "attn_norm",
    "attention/query": "attn_q",
    "attention/key": "attn_k",
    "attention/value": "attn_v",
    "attention/out": "attn_output",
    "attention/query_norm": "attn_q_norm",
    "attention/key_norm": "attn_k_norm",
    "attention_post_norm": "post_attention_norm",
    "mlp_norm": "ffn_norm",
    "mlp/gate": "ffn_gate",
    "mlp/up": "ffn_up",
    "mlp/down": "ffn_down",
    "mlp_post_norm": "post_ffw_norm",
}
_FUSED = dict.fromkeys(
    ("attention/query", "attention/key", "attention/value"), "attn_qkv"
)
_GPT2_ROWS = (
    Row("block_count", "n_layer", int),
    Row("embedding_length", "n_embd", int),
    Row("attention.head_count", "n_head", int),
    Row("feed_forward_length", "n_inner", int, lambda values: 4 * values["n_embd"]),
    Row("context_length", "n_positions", int),
    Row("attention.layer_norm_epsilon", "layer_norm_epsilon", float),
)
_GPT2_LAYOUTS = {
    "layers/attention/query/kernel": "(0 h k) d -> d h k",
    "layers/attention/key/kernel": "(1 h k) d -> d h k",
    "layers/attention/value/kernel": "(2 h k) d -> d h k",
    "layers/attention/out/kernel": "d (h k) -> h k d",
    "layers/mlp/up/kernel": "f d -> d f",
    "layers/mlp/down/kernel": "d f -> f d",
}

# general.architecture
ARCHITECTURES = {
    "llama": Architecture(
        families=("llama", "mistral"),
        rows=(*_SIZES, _WINDOW),
        equal=_ONE_THETA,
        names=_NAMES,
        biased={
            "attention_bias": "blk.0.attn_output.bias",
            "mlp_bias": "blk.0.ffn_down.bias",
        },
        neutral={"tensor_data_layout": ("Meta AI original pth",)},
    ),
    "qwen2": Architecture(
        families=("qwen2",),
        rows=_SIZES,
        equal={**_ONE_THETA, "attention.key_length": "width_of_a_head"},
        names=_NAMES,
    ),
    "qwen3": Architecture(
        families=("qwen3",), rows=_SIZES, equal=_ONE_THETA, names=_NAMES
    ),
    "gemma": Architecture(
        families=("gemma",), rows=_SIZES, equal=_ONE_THETA, names=_NAMES, tied=True
    ),
    "gemma2": Architecture(
        families=("gemma2",),
        rows=(
            *_SIZES,
            Row("attention.sliding_window", "sliding_window", int, 4096),
            Row(SOFT_CAPS[0], SOFT_CAPS[0], float, 50.0),
            Row(SOFT_CAPS[1], SOFT_CAPS[1], float, 30.0),
        ),
        equal=_ONE_THETA,
        names=_NAMES,
        tied=True,
        windows=2,
    ),
    "gemma3": Architecture(
        families=("gemma3_text",),
        rows=(
            *_GLOBAL_AND_LOCAL,
            _WINDOW,
            Row(SOFT_CAPS[1], SOFT_CAPS[1], float, 0.0),
        ),
        equal=_WIDTHS,
        names=_NAMES,
        windows=6,
    ),
    "gpt2": Architecture(
        families=("gpt2",),
        rows=_GPT2_ROWS,
        equal={
            "attention.head_count_kv": "n_head",
            "attention.key_length": "width_of_a_head",
            "attention.value_length": "width_of_a_head",
            "embedding_length_out": "n_embd",
        },
        names=_NAMES | _FUSED,
        layouts=_GPT2_LAYOUTS,
    ),
}

# The models that scale scores by width / heads instead of the head's width.
WIDE_SCORES = {"gemma2": 46, "gemma3": 62}  # layers

# Keys of other architectures, extensions and scalings, with what means "none" in each.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "expert_gating_func": (0,),
    "expert_weights_norm": (False,),
    "full_attention_interval": (0, 1),
    "pooling_type": (0,),
    "rope.scaling.attn_factor": (1,),
    "rope.scaling.yarn_attn_factor": (1,),
    "rope.scaling.yarn_ext_factor": (0, -1),  # negative: not set
    "swin_norm": (False,),
    "use_parallel_residual": (False,),
    **dict.fromkeys(
        (
            "attention.output_scale",
            "attention.value_scale",
            "embedding_scale",
            "expert_group_scale",
            "expert_weights_scale",
            "logit_scale",
            "residual_scale",
            "rope.scaling.alpha",
        ),
        (0, 1),
    ),
    **dict.fromkeys(
        (
            "activation_sparsity_scale",
            "altup.active_idx",
            "altup.num_inputs",
            "attention.clamp_kqv",
            "attention.decay_lora_rank",
            "attention.gate_lora_rank",
            "attention.iclr_lora_rank",
            "attention.indexer.head_count",
            "attention.indexer.key_length",
            "attention.indexer.top_k",
            "attention.key_length_mla",
            "attention.kv_lora_rank",
            "attention.max_alibi_bias",
            "attention.q_lora_rank",
            "attention.relative_buckets_count",
            "attention.shared_kv_layers",
            "attention.temperature_length",
            "attention.temperature_scale",
            "attention.value_length_mla",
            "attention.value_residual_mix_lora_rank",
            "attn_logit_softcapping",
            "decoder_block_count",
            "embedding_length_per_layer_input",
            "expert_chunk_feed_forward_length",
            "expert_count",
            "expert_feed_forward_length",
            "expert_group_count",
            "expert_group_used_count",
            "expert_shared_count",
            "expert_shared_feed_forward_length",
            "expert_used_count",
            "experts_per_group",
            "features_length",
            "final_logit_softcapping",
            "interleave_moe_layer_step",
            "leading_dense_block_count",
            "moe_every_n_layers",
            "moe_latent_size",
            "n_deepstack_layers",
            "nextn_predict_layers",
            "rescale_every_n_layers",
            "rope.dimension_sections",
            "rope.scaling.yarn_log_multiplier",
            "router_logit_softcapping",
            "swiglu_clamp_exp",
            "swiglu_clamp_shexp",
            "time_decay_extra_dim",
            "time_mix_extra_dim",
            "token_shift_count",
        ),
        (0,),
    ),
}
# Keys that change nothing without a scaling that kdjax refuses, or that only say how
# the model was trained. An architecture has one kind of norm only.
INERT = (
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
)
