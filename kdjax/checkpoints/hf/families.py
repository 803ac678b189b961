"""One entry per family: how its `config.json` maps to `ModelConfig`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdjax.checkpoints.hf.rope import Rope
from kdjax.checkpoints.hf.tensor_names import GEMMA, GPT2, LLAMA, NEOX, OPT, Tensors
from kdjax.checkpoints.hf.windows import Windows, every, late, whole


class Key(NamedTuple):
    """The key in `config.json` of a field of `ModelConfig`.

    Attributes:
        names: Separated by spaces; the first is the one written. They must agree.
        default: The value if the key is absent. None: the key is required.
        null: The value if the key is null. None: the default.
        is_whole: Whether transformers takes whole numbers only, for a float.
    """

    names: str
    default: Any = None
    null: Any = None
    is_whole: bool = False


class Family(NamedTuple):
    """Everything that kdjax knows of a family.

    A key that transformers reads for the family, and that changes what its models
    compute, must be in `keys`, `rope`, `windows` or `required`: what a model has that
    none of them holds, transformers would leave out.

    Attributes:
        name: `model_type` in `config.json`.
        architecture: The class in transformers.
        prefix: The prefix that tensor names of a saved base model lack.
        keys: The key of each field.
        fixed: The fields that all models of the family share.
        tensors: Each parameter's tensor, with {} for the layer, and layout.
        rope: How it rotates; None: positions are learned.
        windows: Which layers have a window; None: none.
        required: Keys with the only value, or tuple of values, that kdjax supports.
        must_divide: Whether the heads must divide the width, whatever their own width.
        ignored: Pattern of tensors that are not parameters.
        aliases: Other names of tensors: each with the one in `tensors`, both without
            the prefix.
    """

    name: str
    architecture: str
    prefix: str
    keys: Mapping[str, Key]
    fixed: Mapping[str, Any]
    tensors: Tensors
    rope: Rope | None = Rope()
    windows: Windows | None = None
    required: Mapping[str, Any] = {}
    must_divide: bool = True
    ignored: str = r"rotary_emb(_local)?\.inv_freq$"
    aliases: Mapping[str, str] = {}


# Keys that transformers reads for any family, none of which kdjax knows.
COMMON: Mapping[str, Any] = {
    "is_causal": True,
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "use_bidirectional_attention": (False, None),
    "attention_chunk_size": None,
    "per_layer_config": None,
    "kv_sharing_modes": None,
    "text_config": None,
    "text_encoder": None,
    "decoder": None,
    "generator": None,
}
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
    "activation": Key("hidden_activation", "gelu_pytorch_tanh"),
    "query_scalar": Key("query_pre_attn_scalar", 256.0, is_whole=True),
    "logit_softcap": Key("final_logit_softcapping", 0.0),
}
_MISTRAL_KEYS = {
    **_LLAMA_KEYS,
    "max_length": Key("max_position_embeddings", 131_072),
    "kv_heads": Key("num_key_value_heads", 8, null=0),
}
_QWEN_KEYS = {
    **_LLAMA_KEYS,
    "max_length": Key("max_position_embeddings", 32_768),
    "kv_heads": Key("num_key_value_heads", 32, null=0),
}
_LAYERNORM = {"norm": "layernorm", "mlp": "plain"}
_BIASES = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
_GEMMA = {"scale_embeddings": True, "norm_offset": True, "sandwich_norm": True}


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
            keys=_MISTRAL_KEYS,
            fixed={},
            tensors=LLAMA,
            windows=Windows(whole, is_listed=False),
            must_divide=False,
        ),
        # What transformers makes of a mistral whose file has `layer_types`.
        Family(
            name="ministral",
            architecture="MinistralForCausalLM",
            prefix="model.",
            keys=_MISTRAL_KEYS,
            fixed={},
            tensors=LLAMA,
            windows=Windows(whole, is_required=True),
            must_divide=False,
        ),
        Family(
            name="qwen2",
            architecture="Qwen2ForCausalLM",
            prefix="model.",
            keys=_QWEN_KEYS,
            fixed={"qkv_bias": True},
            tensors=LLAMA,
            windows=Windows(late, has_switch=True),
            must_divide=False,
        ),
        Family(
            name="qwen3",
            architecture="Qwen3ForCausalLM",
            prefix="model.",
            keys={
                **_QWEN_KEYS,
                "head_width": Key("head_dim", 128, null=0),
                "qkv_bias": Key("attention_bias", False),
                "out_bias": Key("attention_bias", False),
            },
            fixed={"qk_norm": True},
            tensors=LLAMA,
            windows=Windows(late, has_switch=True),
            must_divide=False,
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
                # "gelu" in these files means the latter, in transformers too.
                "hidden_act": ("gelu", "gelu_pytorch_tanh"),
                "hidden_activation": ("gelu", "gelu_pytorch_tanh", None),
            },
            must_divide=False,
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
            windows=Windows(every(2), is_required=True),
            required={"sliding_window_pattern": 2},
        ),
        Family(
            name="gemma3_text",
            architecture="Gemma3ForCausalLM",
            prefix="model.",
            keys={
                **_LATER_GEMMA_KEYS,
                "max_length": Key("max_position_embeddings", 131_072),
            },
            fixed={**_GEMMA, "qk_norm": True},
            tensors=GEMMA,
            rope=Rope(theta=1_000_000.0, local=10_000.0),
            windows=Windows(every(6, "sliding_window_pattern"), is_required=True),
            # transformers reads it and never applies it.
            required={"attn_logit_softcapping": (None, 0)},
        ),
        Family(
            name="gpt2",
            architecture="GPT2LMHeadModel",
            prefix="transformer.",
            keys={
                "layers": Key("n_layer num_hidden_layers"),
                "width": Key("n_embd hidden_size"),
                "heads": Key("n_head num_attention_heads"),
                "ffn_width": Key("n_inner", 0),
                "vocab_size": Key("vocab_size"),
                "max_length": Key("n_positions max_position_embeddings"),
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
            rope=Rope(fraction=0.25, older=("rotary_emb_base", "rotary_pct")),
            required={"head_dim": None},
            ignored=r"attention\.((masked_)?bias|rotary_emb\.inv_freq)$",
            aliases={"lm_head.weight": "embed_out.weight"},
        ),
        Family(
            name="opt",
            architecture="OPTForCausalLM",
            prefix="model.",
            keys={
                **_SIZES,
                # Another width of the embeddings is that of OPT-350m.
                "width": Key("hidden_size word_embed_proj_dim"),
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
