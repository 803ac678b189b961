"""One entry per family: how its `config.json` maps to `ModelConfig`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kdjax.checkpoints.hf.config_json import Fields
from kdjax.checkpoints.hf.tensor_names import GEMMA, GPT2, LLAMA, NEOX, OPT, Tensors


class Key(NamedTuple):
    """The key in `config.json` of a field of `ModelConfig`.

    Attributes:
        names: Separated by spaces, the newest first, which is the one written.
        default: The value if the key is absent. None: the key is required.
        null: The value if the key is null. None: the default.
    """

    names: str
    default: Any = None
    null: Any = None


class Family(NamedTuple):
    """Everything that kdjax knows of a family.

    Attributes:
        name: `model_type` in `config.json`.
        architecture: The class in transformers.
        prefix: The prefix that tensor names of a saved base model lack.
        keys: The key of each field.
        fixed: The fields that all models of the family share.
        tensors: Each parameter's tensor, with {} for the layer, and layout.
        rope: Default (theta, fraction, theta of windowed layers); None: positions are
            learned.
        windows: Which layers have a window by default; None: none.
        required: Keys with the only value, or tuple of values, that kdjax supports.
        ignored: Pattern of tensors that are not parameters.
    """

    name: str
    architecture: str
    prefix: str
    keys: Mapping[str, Key]
    fixed: Mapping[str, Any]
    tensors: Tensors
    rope: tuple[float, float, float] | None = (10_000.0, 1.0, 0.0)
    windows: Callable[[Fields, int], Sequence[bool]] | None = None
    required: Mapping[str, Any] = {}
    ignored: str = r"rotary_emb\.inv_freq$"


_SIZES = {
    "layers": Key("num_hidden_layers"),
    "width": Key("hidden_size"),
    "heads": Key("num_attention_heads"),
    "ffn_width": Key("intermediate_size"),
    "vocab_size": Key("vocab_size"),
    "max_length": Key("max_position_embeddings", 2048),
}
_LLAMA_KEYS = {
    **_SIZES,
    "kv_heads": Key("num_key_value_heads", 0),
    "head_width": Key("head_dim", 0),
    "tie_embeddings": Key("tie_word_embeddings", False),
    "norm_epsilon": Key("rms_norm_eps", 1e-6),
    "activation": Key("hidden_act", "silu"),
}
_GEMMA_KEYS = {
    **{field: key for field, key in _LLAMA_KEYS.items() if field != "activation"},
    "head_width": Key("head_dim", 256),
    "tie_embeddings": Key("tie_word_embeddings", True),
    "qkv_bias": Key("attention_bias", False),
    "out_bias": Key("attention_bias", False),
}
_LATER_GEMMA_KEYS = {
    **_GEMMA_KEYS,
    "kv_heads": Key("num_key_value_heads", 4),
    "activation": Key("hidden_activation hidden_act", "gelu_pytorch_tanh"),
    "query_scalar": Key("query_pre_attn_scalar", 256.0),
}
_LAYERNORM = {"norm": "layernorm", "mlp": "plain"}
_BIASES = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
_GEMMA = {"scale_embeddings": True, "norm_offset": True, "sandwich_norm": True}


def _every(period: int) -> Callable[[Fields, int], list[bool]]:
    """Returns the pattern in which every `period`-th layer has full attention."""

    def pattern(hf: Fields, layers: int) -> list[bool]:
        every = hf.integer("sliding_window_pattern _sliding_window_pattern", period)
        return [bool((layer + 1) % max(every, 1)) for layer in range(layers)]

    return pattern


def _late(hf: Fields, layers: int) -> list[bool]:
    """Returns Qwen's pattern: windows, if used at all, from some layer on."""
    is_used = hf.boolean("use_sliding_window", False)
    first = hf.integer("max_window_layers", 28)
    return [is_used and layer >= first for layer in range(layers)]


def _all(hf: Fields, layers: int) -> list[bool]:
    return [True] * layers


# A config that fits several families is written as the first of them.
FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="llama",
            architecture="LlamaForCausalLM",
            prefix="model.",
            keys={
                **_LLAMA_KEYS,
                "qkv_bias": Key("attention_bias", False),
                "out_bias": Key("attention_bias", False),
                "mlp_bias": Key("mlp_bias", False),
            },
            fixed={},
            tensors=LLAMA,
        ),
        Family(
            name="mistral",
            architecture="MistralForCausalLM",
            prefix="model.",
            keys={**_LLAMA_KEYS, "kv_heads": Key("num_key_value_heads", 8, null=0)},
            fixed={},
            tensors=LLAMA,
            windows=_all,
        ),
        Family(
            name="qwen2",
            architecture="Qwen2ForCausalLM",
            prefix="model.",
            keys={**_LLAMA_KEYS, "kv_heads": Key("num_key_value_heads", 32, null=0)},
            fixed={"qkv_bias": True},
            tensors=LLAMA,
            windows=_late,
        ),
        Family(
            name="qwen3",
            architecture="Qwen3ForCausalLM",
            prefix="model.",
            keys={
                **_LLAMA_KEYS,
                "kv_heads": Key("num_key_value_heads", 32, null=0),
                "head_width": Key("head_dim", 128, null=0),
                "qkv_bias": Key("attention_bias", False),
                "out_bias": Key("attention_bias", False),
            },
            fixed={"qk_norm": True},
            tensors=LLAMA,
            windows=_late,
        ),
        Family(
            name="gemma",
            architecture="GemmaForCausalLM",
            prefix="model.",
            keys={**_GEMMA_KEYS, "kv_heads": Key("num_key_value_heads", 16)},
            fixed={
                "activation": "gelu_tanh",
                "scale_embeddings": True,
                "norm_offset": True,
            },
            tensors=LLAMA,
            required={
                "use_bidirectional_attention": False,
                # "gelu" in these files means the latter, in transformers too.
                "hidden_act": ("gelu", "gelu_pytorch_tanh"),
                "hidden_activation": ("gelu", "gelu_pytorch_tanh"),
            },
        ),
        Family(
            name="gemma2",
            architecture="Gemma2ForCausalLM",
            prefix="model.",
            keys={
                **_LATER_GEMMA_KEYS,
                "attention_softcap": Key("attn_logit_softcapping", 50.0, null=0.0),
                "logit_softcap": Key("final_logit_softcapping", 30.0, null=0.0),
            },
            fixed=_GEMMA,
            tensors=GEMMA,
            windows=_every(2),
            required={"use_bidirectional_attention": False},
        ),
        Family(
            name="gemma3_text",
            architecture="Gemma3ForCausalLM",
            prefix="model.",
            keys={
                **_LATER_GEMMA_KEYS,
                "attention_softcap": Key("attn_logit_softcapping", 0.0),
                "logit_softcap": Key("final_logit_softcapping", 0.0),
            },
            fixed={**_GEMMA, "qk_norm": True},
            tensors=GEMMA,
            rope=(1_000_000.0, 1.0, 10_000.0),
            windows=_every(6),
            required={"use_bidirectional_attention": False},
        ),
        Family(
            name="gpt2",
            architecture="GPT2LMHeadModel",
            prefix="transformer.",
            keys={
                "layers": Key("n_layer"),
                "width": Key("n_embd"),
                "heads": Key("n_head"),
                "ffn_width": Key("n_inner", 0),
                "vocab_size": Key("vocab_size"),
                "max_length": Key("n_positions"),
                "tie_embeddings": Key("tie_word_embeddings", True),
                "norm_epsilon": Key("layer_norm_epsilon", 1e-5),
                "activation": Key("activation_function", "gelu_new"),
            },
            fixed={**_LAYERNORM, **_BIASES, "positions": "learned"},
            tensors=GPT2,
            rope=None,
            required={
                "scale_attn_weights": True,
                "scale_attn_by_inverse_layer_idx": False,
                "add_cross_attention": False,
            },
            ignored=r"\.attn\.(masked_)?bias$",
        ),
        Family(
            name="gpt_neox",
            architecture="GPTNeoXForCausalLM",
            prefix="gpt_neox.",
            keys={
                **_SIZES,
                "tie_embeddings": Key("tie_word_embeddings", False),
                "norm_epsilon": Key("layer_norm_eps", 1e-5),
                "activation": Key("hidden_act", "gelu"),
                "parallel_residual": Key("use_parallel_residual", True),
                "qkv_bias": Key("attention_bias", True),
                "out_bias": Key("attention_bias", True),
            },
            fixed={**_LAYERNORM, "mlp_bias": True},
            tensors=NEOX,
            rope=(10_000.0, 0.25, 0.0),
            ignored=r"attention\.((masked_)?bias|rotary_emb\.inv_freq)$",
        ),
        Family(
            name="opt",
            architecture="OPTForCausalLM",
            prefix="model.",
            keys={
                **_SIZES,
                "ffn_width": Key("ffn_dim"),
                "tie_embeddings": Key("tie_word_embeddings", True),
                "activation": Key("activation_function", "relu"),
                "qkv_bias": Key("enable_bias", True),
                "out_bias": Key("enable_bias", True),
                "mlp_bias": Key("enable_bias", True),
            },
            fixed={**_LAYERNORM, "positions": "learned", "norm_epsilon": 1e-5},
            tensors=OPT,
            rope=None,
            required={
                "do_layer_norm_before": True,
                "layer_norm_elementwise_affine": True,
                "_remove_final_layer_norm": False,
            },
        ),
    )
}
