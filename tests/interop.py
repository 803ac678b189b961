"""Models and files at random, and what transformers computes with them.

`outcomes.json` holds what becomes of them in kdjax; `make_outcomes.py` writes it. Only
`their_logits` imports torch and transformers.
"""

import contextlib
import json
import random

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import models
from kdjax.checkpoints.hf.translate import canonical, read_config, write_config
from kdjax.config import ModelConfig, RopeScalingConfig
from kdjax.config.model_rules import check_architecture
from kdjax.core.errors import UsageError

COUNT = 200  # random models
TOLERANCE = 1e-4  # of logits, as a share of the largest
LENGTH, PROMPT = 20, 14  # tokens in a row, and how many of them are read at once
SIZES = {
    "layers": 3,
    "width": 32,
    "heads": 4,
    "kv_heads": 2,
    "ffn_width": 48,
    "vocab_size": 50,
    "max_length": 64,
}
_PLAIN = {
    "norm": "layernorm",
    "mlp": "plain",
    "kv_heads": 0,
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
}
_GEMMA = {
    "scale_embeddings": True,
    "norm_offset": True,
    "activation": "gelu_tanh",
    "head_width": 16,
}
# A point of each family, from which the random configurations start.
FAMILIES = {
    "llama": {"tie_embeddings": False},
    "mistral": {"windows": (5,)},
    "ministral": {"windows": (5, 0)},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_width": 16},
    "gemma": _GEMMA,
    "gemma2": _GEMMA
    | {
        "sandwich_norm": True,
        "windows": (5, 0),
        "query_scalar": 24.0,
        "attention_softcap": 5.0,
        "logit_softcap": 9.0,
    },
    "gemma3_text": _GEMMA
    | {
        "sandwich_norm": True,
        "windows": (5, 5, 0),
        "qk_norm": True,
        "rope_theta": 1e6,
        "local_rope_theta": 1e4,
    },
    "gpt2": _PLAIN | {"positions": "learned", "activation": "gelu_tanh"},
    "gpt_neox": _PLAIN
    | {
        "rope_fraction": 0.25,
        "parallel_residual": True,
        "activation": "gelu",
        "tie_embeddings": False,
        "heads": 2,
    },
    "opt": _PLAIN | {"positions": "learned", "activation": "relu"},
}
_CHANGES = {
    "tie_embeddings": [True, False],
    "windows": [(0,), (5,), (5, 0), (0, 5, 5), (0, 5), (7, 5), (1,), (64,)],
    "rope_scaling": [
        RopeScalingConfig("linear", 2.0),
        RopeScalingConfig("llama3", 8.0, 1.0, 4.0, 32),
        RopeScalingConfig("llama3", 4.0, 1.5, 3.0, 64),
    ],
    "rope_theta": [100.0, 5e5, 3580165449.0],
    "rope_fraction": [0.5, 0.25, 1.0, 0.0],
    "local_rope_theta": [100.0, 0.0],
    "query_scalar": [0.0, 20.0, 20.5],
    "attention_softcap": [0.0, 5.0],
    "logit_softcap": [0.0, 7.5],
    "head_width": [0, 12, 24],
    "heads": [3, 8],  # three do not divide the width
    "kv_heads": [1, 1, 0],
    "ffn_width": [0, 40],
    "activation": ["silu", "gelu", "gelu_tanh", "relu"],
    "norm_epsilon": [1e-6, 1e-3, 0.5],
    "norm_offset": [True, False],
    "sandwich_norm": [True, False],
    "scale_embeddings": [True, False],
    "qk_norm": [True, False],
    "parallel_residual": [True, False],
    "qkv_bias": [True, False],
    "out_bias": [True, False],
    "mlp_bias": [True, False],
    "max_length": [32, 24],
    "vocab_size": [64, 51],
    "layers": [1, 2],
}


def random_configs(count: int, seed: int = 0) -> list[ModelConfig]:
    """Returns configurations near those of every family, in turn."""
    rng = random.Random(seed)
    configs: list[ModelConfig] = []
    while len(configs) < count:
        family = list(FAMILIES)[len(configs) % len(FAMILIES)]
        fields = SIZES | FAMILIES[family]
        for name in rng.sample(list(_CHANGES), rng.choice([0, 1, 1, 2, 2, 3])):
            fields[name] = rng.choice(_CHANGES[name])
        with contextlib.suppress(UsageError):  # such as heads that do not divide
            check_architecture(config := ModelConfig(**fields), "random")
            configs.append(config)
    return configs


def loud_params(model, seed=0):
    """Returns parameters so large that no part of the model goes unnoticed."""
    rng = np.random.default_rng(seed)

    def fill(path, x):
        name, noise = path[-1].key, rng.normal(size=x.shape)
        if name in ("scale", "bias"):
            is_one = name == "scale" and not model.config.norm_offset
            return jnp.float32(is_one + 0.3 * noise)
        return jnp.float32((0.7 if "embed" in str(path) else 0.25) * noise)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(fill, shapes)
    size = model.config.vocab_size  # what no id reaches is not written
    params["embed"]["tokens"] = params["embed"]["tokens"].at[size:].set(0)
    if "head" in params:
        kernel = params["head"]["kernel"]
        params["head"]["kernel"] = kernel.at[:, size:].set(0)
    return params


def rows(vocab_size=50):
    """Returns two rows of tokens."""
    return np.random.default_rng(0).integers(0, vocab_size, (2, LENGTH), np.int32)


def our_logits(model, params, tokens):
    """Returns what kdjax computes, without the padding of the vocabulary."""
    logits = jax.jit(model.logits)(params, tokens)
    return np.asarray(logits, np.float32)[..., : model.config.vocab_size]


def their_logits(directory, tokens):
    """Returns what transformers computes, and again with a cache, token by token."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", dtype="float32"
    ).eval()
    ids = torch.tensor(tokens).long()
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        step = model(ids[:, :PROMPT], use_cache=True)
        parts = [step.logits]
        for place in range(PROMPT, ids.shape[1]):
            cache = step.past_key_values
            step = model(
                ids[:, place : place + 1], past_key_values=cache, use_cache=True
            )
            parts.append(step.logits)
    return whole.numpy(), torch.cat(parts, 1).numpy()


def difference(found, expected):
    """Returns the largest difference, as a share of the largest logit."""
    if found.shape != expected.shape or not np.isfinite(expected).all():
        return float("inf")
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


# Keys of older files and of other families, with a value that is not the default.
STRANGERS = {
    "attention_chunk_size": 4,
    "attn_logit_softcapping": 3.0,
    "decoder": {"hidden_size": 8},
    "final_logit_softcapping": 3.0,
    "head_dim": 6,
    "hidden_act": "relu",
    "hidden_activation": "relu",
    "hidden_size": 24,
    "is_causal": False,
    "kv_sharing_modes": ["reuse"],
    "layer_types": ["sliding_attention", "full_attention"],
    "max_window_layers": 0,
    "num_hidden_layers": 1,
    "original_max_position_embeddings": 16,
    "partial_rotary_factor": 0.5,
    "per_layer_config": {"0": {"sliding_window": 3}},
    "pretraining_tp": 2,
    "query_pre_attn_scalar": 3,
    "rope_local_base_freq": 50.0,
    "rope_scaling": {"type": "linear", "factor": 3.0},
    "rope_theta": 50.0,
    "rotary_emb_base": 50,
    "rotary_pct": 0.5,
    "sliding_window": 3,
    "sliding_window_pattern": 2,
    "_sliding_window_pattern": 2,
    "text_config": {"hidden_size": 8},
    "use_bidirectional_attention": True,
    "use_sliding_window": True,
    "word_embed_proj_dim": 8,
}
_ROPES = [
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0}
    | {"high_freq_factor": 2.0, "original_max_position_embeddings": 16},
    {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0}
    | {"high_freq_factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    {"rope_type": "dynamic", "factor": 4.0},
    {"type": "linear", "factor": 3.0, "rope_theta": 50.0},
    {"rope_theta": 50.0},
    {"rope_theta": 50.0, "partial_rotary_factor": 0.5},
]
_ACTIVATIONS = ["silu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu"]


def other_values(key, value):
    """Returns values that a key may have instead of this one."""
    if key in ("rope_parameters", "rope_scaling"):
        nested = [{"full_attention": r, "sliding_attention": None} for r in _ROPES[:3]]
        local = [{"sliding_attention": {"rope_theta": 50.0, "rope_type": "default"}}]
        return [None, {}, *_ROPES, *nested, *local]
    if key == "layer_types":
        full, local = ["full_attention"], ["sliding_attention"]
        others = len(value or "ab") - 1
        lists = [full + others * full, local + others * local, full + others * local]
        return [None, *lists]
    if key in ("hidden_act", "hidden_activation", "activation_function"):
        return [None, *_ACTIVATIONS, "quick_gelu"]
    if isinstance(value, bool):
        return [None, not value]
    if isinstance(value, int | float):
        return [None, 0, value * 2, 3, 0.5]
    if isinstance(value, str):
        return [None, "other"]
    return [None, value or 3, True]


def mutations(values, defaults):
    """Yields the files that differ in one key from one file.

    Args:
        values: The content of the file.
        defaults: The keys that transformers has for the family, with their defaults.
    """
    for key in sorted(values.keys() | defaults.keys() | STRANGERS.keys()):
        if key == "model_type":
            continue
        before = values.get(key, defaults.get(key))
        others = other_values(key, STRANGERS.get(key) if before is None else before)
        if key in STRANGERS:
            others.append(STRANGERS[key])
        for value in others:
            yield key, values | {key: value}
        if key in values:
            yield key, {name: old for name, old in values.items() if name != key}


def reading(values):
    """Returns the architecture that a file describes; None: it is refused."""
    try:
        return canonical(read_config(values, "")[1])
    except UsageError:
        return None


def readings(values, defaults):
    """Returns, for each key, how its mutations are read, one letter for each.

    r: refused, s: the same model as before, c: a changed one.
    """
    before, letters = reading(values), {}
    for key, edited in mutations(values, defaults):
        found = reading(edited)
        letter = "r" if found is None else "s" if found == before else "c"
        letters[key] = letters.get(key, "") + letter
    return letters


def export_outcome(config):
    """Returns the family that a model is written as, or how the nearest differs."""
    try:
        return write_config(config)[0].name
    except UsageError as error:
        return str(error).partition("the nearest, ")[2]


def check_export(config, directory):
    """Raises unless transformers computes what kdjax does with what kdjax writes."""
    model = models.build(config)
    params = loud_params(model)
    models.save_pretrained(directory, model, params, tokenizer=None, card="")
    tokens = rows(config.vocab_size)
    ours = our_logits(model, params, tokens)
    for theirs in their_logits(directory, tokens):
        assert difference(ours, theirs) < TOLERANCE, config


def check_reading(directory, original, edited, known):
    """Raises unless an edited config.json means the same to kdjax and transformers.

    Args:
        directory: A checkpoint, whose config.json is overwritten.
        original: Its own config.json.
        edited: Another one, with a key changed.
        known: A dict of kdjax's logits by architecture, which this fills.
    """
    (directory / "config.json").write_text(json.dumps(edited))
    config, tokens = reading(edited), rows()
    if config is None:
        return
    try:
        if config not in known:
            model, params = models.load_pretrained(directory)
            known[config] = our_logits(model, params, tokens)
    except UsageError:  # the tensors' shapes are those of `original`
        return
    try:
        theirs = their_logits(directory, tokens)
    except Exception:  # transformers refuses it, for its own strict types for example
        return
    changed = {k: v for k, v in edited.items() if original.get(k, "absent") != v}
    for logits in theirs:
        assert difference(known[config], logits) < TOLERANCE, (directory, changed)
