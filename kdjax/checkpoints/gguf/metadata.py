"""Translates the metadata of a GGUF file to a `config.json`, and back.

Every key in the namespace of the architecture is used, without effect, or refused: a
key that kdjax does not know may change the function that the weights compute.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import gguf
import numpy as np

from kdjax.checkpoints.gguf.architectures import (
    ARCHITECTURES,
    INERT,
    NEUTRAL,
    SOFT_CAPS,
    WIDE_SCORES,
    Architecture,
)
from kdjax.checkpoints.hf.config_json import MOST_LAYERS, Fields
from kdjax.core.errors import UsageError
from kdjax.formats.safetensors import Stored

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
FREQUENCIES, QUERY_BIAS = "rope_freqs.weight", "blk.0.attn_q.bias"
_PATTERN, _WINDOW = "attention.sliding_window_pattern", "attention.sliding_window"
_TYPE, _FACTOR = "rope.scaling.type", "rope.scaling.factor"
_OLD_FACTOR = "rope.scale_linear"
_SCALE = "attention.scale"
# Namespaces of files that are no language model, or that extend one.
_FOREIGN = ("adapter.", "clip.", "diffusion.", "imatrix.", "xielu.")
_BITS = {"True", "False", "0", "1"}
_FULL, _LOCAL = "full_attention", "sliding_attention"
# The scaling of all Llama 3 models since 3.1; the file holds only the divisors.
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_ORIGINAL, _LLAMA3_LENGTH = "rope.scaling.original_context_length", 8192


def read_values(
    name: str, metadata: Mapping[str, Any], stored: Mapping[str, Stored], path: str
) -> dict[str, Any]:
    """Returns the `config.json` equivalent to the metadata of a GGUF file.

    Args:
        name: The architecture.
        metadata: The content of the header.
        stored: The tensors by name.
        path: Names the file in error messages.

    Raises:
        UsageError: A key is missing, invalid, unknown, or asks for a function that
            kdjax does not compute.
    """
    architecture = ARCHITECTURES[name]
    meta = _Own(name, metadata, path)
    embedding = stored.get(EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        which = "" if stored else "; the file holds a tokenizer only"
        raise UsageError(f"{path}: the tensor {EMBEDDING!r} is missing{which}")
    values: dict[str, Any] = {
        "model_type": architecture.families[0],
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": architecture.tied or HEAD not in stored,
        **{flag: tensor in stored for flag, tensor in architecture.biased.items()},
    }
    for row in architecture.rows:
        default = row.default(values) if callable(row.default) else row.default
        read: Any = meta.integer if row.kind is int else meta.number
        values[row.name] = read(row.key, default)
    if "rope_theta" in values:
        values["rope_scaling"] = _read_scaling(meta, name, values, stored)
    values |= _read_windows(meta, architecture, values)
    if values["model_type"] in ("llama", "qwen2") and not values.get("attention_bias"):
        # Of these two families only the latter biases queries, keys and values alone.
        is_biased = QUERY_BIAS in stored
        values["model_type"] = "qwen2" if is_biased else "llama"
    values |= _read_scores(meta, name, values)
    _check_keys(meta, metadata, architecture, values)
    return values


def write_metadata(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the metadata that say what a `config.json` does.

    What a key cannot express is left out: reading the result shows it.

    Args:
        name: The architecture.
        values: The content of the `config.json`.
    """
    architecture = ARCHITECTURES[name]
    found = {
        row.key: row.kind(values[row.name])
        for row in architecture.rows
        if values.get(row.name) is not None
    }
    found["vocab_size"] = values["vocab_size"]
    if "rope_theta" in values:
        found["attention.value_length"] = values["head_dim"]
        found["rope.dimension_count"] = values["head_dim"]
        scaling = values.get("rope_scaling") or {}
        if scaling.get("rope_type") == "linear":
            found |= {_TYPE: "linear", _FACTOR: float(scaling["factor"])}
        length = scaling.get("original_max_position_embeddings", _LLAMA3_LENGTH)
        found |= {_ORIGINAL: length} if length != _LLAMA3_LENGTH else {}
    if architecture.windows:
        is_local = [kind == _LOCAL for kind in values["layer_types"]]
        if any(is_local) and is_local != _every(architecture.windows, len(is_local)):
            found[_PATTERN] = is_local
    return {f"{name}.{key}": value for key, value in found.items()}


def llama3_factors(theta: float, width: int, scaling: Mapping[str, Any]) -> np.ndarray:
    """Returns the divisor of each of Llama 3's frequencies, [width / 2] in float32."""
    frequencies = theta ** -(np.arange(0, width, 2) / width)
    waves = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((waves - low) / (high - low), 0, 1)
    return (1 / (kept + (1 - kept) / scaling["factor"])).astype(np.float32)


class _Own:
    """The keys in the architecture's own namespace, by their names within it."""

    def __init__(self, name: str, metadata: Mapping[str, Any], path: str) -> None:
        self.name, self.source = name, path
        self.values = {
            key.removeprefix(f"{name}."): value
            for key, value in metadata.items()
            if key.startswith(f"{name}.")
        }
        whole = {f"{name}.{key}": _uniform(v) for key, v in self.values.items()}
        self._fields = Fields(whole, path)

    def integer(self, key: str, default: int | None = None) -> int:
        return self._fields.integer(f"{self.name}.{key}", default)

    def number(self, key: str, default: float | None = None) -> float:
        return self._fields.number(f"{self.name}.{key}", default)

    def refuse(self, key: str, rule: str, value: Any) -> NoReturn:
        """Raises, with the key in full."""
        self._fields.refuse(f"{self.name}.{key}", rule, value)

    def has_effect(self, key: str, neutral: Sequence[Any]) -> bool:
        """Returns whether a key has a value other than those that mean nothing."""
        found = self.values.get(key)
        items = found if isinstance(found, list) else [found]
        return key in self.values and any(item not in neutral for item in items)


def _uniform(value: Any) -> Any:
    """Returns the element of a list of equal ones; a key may be given per layer."""
    if isinstance(value, list) and value and all(item == value[0] for item in value):
        return value[0]
    return value


def _read_scaling(
    meta: _Own, name: str, values: Mapping[str, Any], stored: Mapping[str, Stored]
) -> dict[str, Any] | None:
    """Returns `rope_scaling`, from the metadata or from the scaled frequencies.

    Like llama.cpp, reads a factor without a type as linear scaling, and the factor
    under its older name if the newer one is absent.
    """
    kind = meta.values.get(_TYPE, "linear")
    if kind not in ("none", "linear"):
        meta.refuse(_TYPE, "must be none or linear for kdjax", kind)
    factor = meta.number(_FACTOR, meta.number(_OLD_FACTOR, 0.0))
    if factor < 0:
        meta.refuse(_FACTOR, "must not be negative", factor)
    is_scaled = kind == "linear" and factor not in (0, 1)
    if name == "llama" and FREQUENCIES in stored:
        if is_scaled:
            meta.refuse(_FACTOR, f"must be 1 beside the tensor {FREQUENCIES}", factor)
        return _read_frequencies(meta, values, stored[FREQUENCIES])
    return {"rope_type": "linear", "factor": factor} if is_scaled else None


def _read_frequencies(
    meta: _Own, values: Mapping[str, Any], found: Stored
) -> dict[str, Any]:
    theta, width = values["rope_theta"], values["head_dim"]
    if found.kind == "F32" and found.shape == (width // 2,) and theta > 0:
        factors = found.read(())
        scaling = {**_LLAMA3, "factor": float(factors.max(initial=1.0))}
        # Only kdjax gives another length.
        for length in (meta.integer(_ORIGINAL, _LLAMA3_LENGTH), _LLAMA3_LENGTH):
            scaling["original_max_position_embeddings"] = length
            wanted = llama3_factors(theta, width, scaling)
            if np.allclose(factors, wanted, rtol=1e-3):
                return scaling
    raise UsageError(
        f"{meta.source}: the tensor {FREQUENCIES!r} is not the scaling of Llama 3"
    )


def _every(period: int, layers: int) -> list[bool]:
    """Returns which layers have a window if every `period`-th has none."""
    return [bool((layer + 1) % period) for layer in range(layers)]


def _read_windows(
    meta: _Own, architecture: Architecture, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the keys for the sliding windows."""
    window = values.get("sliding_window", 0)
    if not architecture.windows:
        if meta.has_effect(_PATTERN, (0, 1, False)):
            meta.refuse(_PATTERN, "has no meaning here", meta.values[_PATTERN])
        if "mistral" in architecture.families:
            return {"model_type": "mistral"} if window else {"sliding_window": None}
        length = values.get("max_position_embeddings", values.get("n_positions"))
        found = meta.integer(_WINDOW, 0)
        if found and found < length:
            meta.refuse(_WINDOW, "must not be less than the context length", found)
        return {}
    layers = values["num_hidden_layers"]
    if layers > MOST_LAYERS:
        meta.refuse("block_count", "is out of range", layers)
    pattern = meta.values.get(_PATTERN, architecture.windows)
    if type(pattern) is int and pattern > 0:
        pattern = _every(pattern, layers)
    is_list = isinstance(pattern, list) and set(map(str, pattern)) <= _BITS
    if not is_list or len(pattern) != layers:
        meta.refuse(_PATTERN, "must be a number or a value for each layer", pattern)
    kinds = [_LOCAL if is_local and window else _FULL for is_local in pattern]
    # The family's files have a window even if no layer uses it.
    window = window or values["max_position_embeddings"]
    return {"sliding_window": window, "layer_types": kinds}


def _read_scores(meta: _Own, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scale of the attention's scores where a family lets it vary."""
    heads = values.get("num_attention_heads", values.get("n_head", 1))
    width = values.get("hidden_size", values.get("n_embd", 0))
    scalar = values.get("head_dim", width // max(heads, 1))
    if values.get("num_hidden_layers") == WIDE_SCORES.get(name):
        scalar = width // max(heads, 1)
    scale = meta.number(_SCALE, 0.0)
    if scale and not math.isclose(scale, max(scalar, 1) ** -0.5, rel_tol=1e-5):
        meta.refuse(_SCALE, f"must be 1 / sqrt({scalar}) for kdjax", scale)
    if name not in WIDE_SCORES:
        return {}
    caps = {cap: values[cap] for cap in SOFT_CAPS if cap in values}
    for cap, value in caps.items():
        if name == "gemma2" and value <= 0:
            meta.refuse(cap, "must be positive", value)
    # A config.json says null, not 0, where there is none.
    return {"query_pre_attn_scalar": scalar} | {k: v or None for k, v in caps.items()}


def _check_keys(
    meta: _Own,
    metadata: Mapping[str, Any],
    architecture: Architecture,
    values: Mapping[str, Any],
) -> None:
    """Raises if a key could change the function in a way that kdjax does not know."""
    heads = values.get("num_attention_heads", values.get("n_head", 1))
    width = values.get("hidden_size", values.get("n_embd", 0))
    known = {**values, "width_of_a_head": width // max(heads, 1)}
    equal = {**architecture.equal, "vocab_size": "vocab_size"}
    used = {row.key for row in architecture.rows} | {_PATTERN, _WINDOW, _SCALE}
    if "rope_theta" in values:
        used |= {_TYPE, _FACTOR, _OLD_FACTOR}
    for key, value in meta.values.items():
        if key in equal:
            wanted = known[equal[key]]
            if meta.has_effect(key, (wanted,)):
                meta.refuse(key, f"must be {wanted} with these tensors", value)
        elif key in used or key in INERT:
            continue
        elif (neutral := {**NEUTRAL, **architecture.neutral}.get(key)) is None:
            meta.refuse(key, "is a key that kdjax does not know", value)
        elif meta.has_effect(key, neutral):
            words = " or ".join(str(item).lower() for item in neutral)
            meta.refuse(key, f"must be {words} for kdjax", value)
    others = set(gguf.MODEL_ARCH_NAMES.values()) - {meta.name}
    for key in metadata:
        if key.startswith(_FOREIGN) or key.partition(".")[0] in others:
            raise UsageError(
                f"{meta.source}: the key {key[:80]!r} belongs to another kind of file"
            )
    if (kind := metadata.get("general.type", "model")) != "model":
        raise UsageError(
            f"{meta.source}: general.type must be model; it is {str(kind)[:60]!r}"
        )
