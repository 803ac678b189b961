"""GGUF files as checkpoints: maps their metadata to a config and their tensor names."""

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
from etils import epath

from kdjax.checkpoints.hf.config_json import Fields
from kdjax.checkpoints.hf.families import Family
from kdjax.checkpoints.hf.tensor_names import Tensors
from kdjax.checkpoints.hf.translate import read_config
from kdjax.config.schema import ModelConfig
from kdjax.core.errors import UsageError
from kdjax.formats.gguf import Header, TensorInfo
from kdjax.formats.safetensors import DTYPES, Index, Stored

_QUANTS = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"}
# general.architecture: model_type in config.json.
_FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "gpt2": "gpt2",
}
# Parameter: tensor. Except for GPT-2, the layouts are those of the safetensors.
_NAMES = {
    "embed/tokens": "token_embd.weight",
    "embed/positions": "position_embd.weight",
    "final_norm/scale": "output_norm.weight",
    "final_norm/bias": "output_norm.bias",
    "head/kernel": "output.weight",
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
_GPT2_LAYOUTS = {
    "layers/attention/query/kernel": "(0 h k) d -> d h k",
    "layers/attention/key/kernel": "(1 h k) d -> d h k",
    "layers/attention/value/kernel": "(2 h k) d -> d h k",
    "layers/attention/out/kernel": "d (h k) -> h k d",
    "layers/mlp/up/kernel": "f d -> d f",
    "layers/mlp/down/kernel": "d f -> f d",
}
# The scaling of all Llama 3 models since 3.1; the file holds only the scaled factors.
_LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_FREQUENCIES = "rope_freqs.weight"
# The Gemmas that scale scores by width / heads instead of the head's width.
_WIDE_GEMMA = {"gemma2": 46, "gemma3": 62}  # layers


def read_gguf(
    header: Header, path: epath.Path
) -> tuple[Family, ModelConfig, dict[str, Stored]]:
    """Returns the family, the architecture and the tensors of a GGUF file.

    Args:
        header: The header of the file.
        path: Names the file in error messages.

    Raises:
        UsageError: The header is invalid, or kdjax does not load the architecture.
    """
    if header.metadata.get("split.count", 0) not in (0, 1):  # 0: merged from several
        raise UsageError(
            f"{path} is one of several files; merge them with llama.cpp's "
            "llama-gguf-split --merge"
        )
    name = header.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in _FAMILIES:
        raise UsageError(
            f"{path}: general.architecture {str(name)[:60]!r} is none that kdjax loads "
            f"from GGUF; those are {', '.join(_FAMILIES)}"
        )
    stored = {
        tensor: _stored(header.data, info) for tensor, info in header.tensors.items()
    }
    values = _config(name, header, stored, str(path))
    family, config = read_config(values, str(path))
    family = family._replace(
        tensors=_table(family.tensors, name),
        prefix="blk.",
        ignored=_FREQUENCIES.replace(".", r"\."),
    )
    return family, config, _as_published(name, config, stored)


def _stored(data: np.ndarray, info: TensorInfo) -> Stored:
    """Returns a tensor whose rows are dequantised on reading."""
    kind, shape = info.kind.name, info.shape
    dtype = DTYPES.get(kind, np.dtype(np.float32) if kind in _QUANTS else None)

    def read(index: Index) -> np.ndarray:
        index = index + (slice(None),) * (len(shape) - len(index))
        raw = data[info.start : info.start + info.size].reshape(*shape[:-1], -1)
        rows = np.ascontiguousarray(raw[index[:-1]])
        is_float = kind in DTYPES
        values = rows.view(dtype) if is_float else gguf.dequantize(rows, info.kind)
        return values[..., index[-1]]

    return Stored(shape, dtype, kind, read)


def _config(
    name: str, header: Header, stored: Mapping[str, Stored], path: str
) -> dict[str, Any]:
    """Returns the `config.json` equivalent to the metadata."""
    meta = Fields(header.metadata, path)

    def whole(key: str, default: int | None = None) -> int:
        return meta.integer(f"{name}.{key}", default)

    embedding = stored.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise UsageError(f"{path}: the tensor 'token_embd.weight' is missing")
    common = {
        "model_type": _FAMILIES[name],
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in stored,
    }
    width, heads = whole("embedding_length"), whole("attention.head_count")
    if name == "gpt2":
        return common | {
            "n_layer": whole("block_count"),
            "n_embd": width,
            "n_head": heads,
            "n_inner": whole("feed_forward_length", 4 * width),
            "n_positions": whole("context_length"),
            "layer_norm_epsilon": meta.number(f"{name}.attention.layer_norm_epsilon"),
        }
    head_width = whole("attention.key_length", width // max(heads, 1))
    if whole("rope.dimension_count", head_width) != head_width:
        meta.refuse(f"{name}.rope.dimension_count", "must be the heads' width")
    values = common | {
        "num_hidden_layers": whole("block_count"),
        "hidden_size": width,
        "intermediate_size": whole("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": whole("attention.head_count_kv", heads),
        "head_dim": head_width,
        "max_position_embeddings": whole("context_length"),
        "rms_norm_eps": meta.number(f"{name}.attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.number(
            f"{name}.rope.freq_base", 1e6 if name == "gemma3" else 1e4
        ),
        "rope_scaling": _scaling(name, header, stored, head_width, path),
        "attention_bias": "blk.0.attn_output.bias" in stored,
        "mlp_bias": "blk.0.ffn_down.bias" in stored,
    }
    if name in _WIDE_GEMMA:
        is_wide = values["num_hidden_layers"] == _WIDE_GEMMA[name]
        values |= {
            "query_pre_attn_scalar": width // max(heads, 1) if is_wide else head_width,
            "sliding_window": whole("attention.sliding_window"),
            "attn_logit_softcapping": meta.number(
                f"{name}.attn_logit_softcapping", 50.0 if name == "gemma2" else 0.0
            )
            or None,
            "final_logit_softcapping": meta.number(
                f"{name}.final_logit_softcapping", 30.0 if name == "gemma2" else 0.0
            )
            or None,
            "rope_local_base_freq": meta.number(f"{name}.rope.freq_base_swa", 1e4),
        }
    elif whole("attention.sliding_window", 0):
        values |= {"model_type": "mistral"} if name == "llama" else {}
        values |= {"sliding_window": whole("attention.sliding_window")}
    return values


def _scaling(
    name: str, header: Header, stored: Mapping[str, Stored], width: int, path: str
) -> dict[str, Any] | None:
    """Returns `rope_scaling`, from the metadata or from the scaled frequencies."""
    if _FREQUENCIES in stored:
        found = stored[_FREQUENCIES]
        theta = Fields(header.metadata, path).number(f"{name}.rope.freq_base", 1e4)
        if found.kind == "F32" and found.shape == (width // 2,) and theta > 0:
            factors = found.read(())
            scaling = {**_LLAMA3, "factor": float(factors.max(initial=1.0))}
            wanted = _llama3_factors(theta, width, scaling)
            if np.allclose(factors, wanted, rtol=1e-3):
                return scaling
        raise UsageError(
            f"{path}: the tensor {_FREQUENCIES!r} is not the scaling of Llama 3"
        )
    kind = header.metadata.get(f"{name}.rope.scaling.type", "none")
    if kind == "none":
        return None
    factor = header.metadata.get(f"{name}.rope.scaling.factor", 1.0)
    return {"rope_type": kind, "factor": factor}


def _llama3_factors(theta: float, width: int, scaling: Mapping[str, Any]) -> np.ndarray:
    """Returns the divisor of each of Llama 3's frequencies."""
    frequencies = theta ** -(np.arange(0, width, 2) / width)
    waves = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((waves - low) / (high - low), 0, 1)
    return 1 / (kept + (1 - kept) / scaling["factor"])


def _table(tensors: Tensors, name: str) -> Tensors:
    """Returns a family's table with the tensor names of the GGUF file."""
    rows = {}
    for parameter, (_, layout) in tensors.items():
        stem, _, leaf = parameter.removeprefix("layers/").rpartition("/")
        if not parameter.startswith("layers/"):
            rows[parameter] = _NAMES[parameter], layout
            continue
        suffix = "bias" if leaf == "bias" else "weight"
        tensor = f"blk.{{}}.{_NAMES[stem]}.{suffix}"
        if name == "gpt2":
            layout = _GPT2_LAYOUTS.get(parameter, layout)
            if stem in ("attention/query", "attention/key", "attention/value"):
                tensor = f"blk.{{}}.attn_qkv.{suffix}"
        rows[parameter] = tensor, layout
    return rows


def _as_published(
    name: str, config: ModelConfig, stored: Mapping[str, Stored]
) -> dict[str, Stored]:
    """Returns the tensors with the changes of the conversion to GGUF undone."""
    tensors = dict(stored)
    for tensor, found in stored.items():
        if name == "llama" and ".attn_q." in tensor:
            tensors[tensor] = _halved(found, config.heads)
        elif name == "llama" and ".attn_k." in tensor:
            tensors[tensor] = _halved(found, config.key_value_heads)
        elif name.startswith("gemma") and tensor.endswith("norm.weight"):
            tensors[tensor] = _less_one(found)
    return tensors


def _halved(stored: Stored, heads: int) -> Stored:
    """Returns queries or keys in halves; the file interleaves the rotated pairs."""
    width = stored.shape[0] // heads
    if width % 2 or stored.shape[0] % heads:
        return stored  # wrongly shaped, which is reported later

    def read(index: Index) -> np.ndarray:
        low, high, _ = index[0].indices(stored.shape[0])
        first, last = low // width * width, -(-high // width) * width
        part = stored.read((slice(first, last), *index[1:]))
        pairs = part.reshape(-1, width // 2, 2, *part.shape[1:])
        return pairs.swapaxes(1, 2).reshape(part.shape)[low - first : high - first]

    return stored._replace(read=read)


def _less_one(stored: Stored) -> Stored:
    """Returns a norm's scale as Gemma publishes it; the file holds 1 + scale."""
    return stored._replace(read=lambda index: stored.read(index) - 1)
