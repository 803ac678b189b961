"""Translates a checkpoint's `config.json` to a `ModelConfig`, and back."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from kdjax.checkpoints.hf.config_json import MOST, MOST_LAYERS, Fields
from kdjax.checkpoints.hf.families import COMMON, FAMILIES, Family, Key
from kdjax.checkpoints.hf.rope import read_rope, write_rope
from kdjax.checkpoints.hf.windows import read_windows, write_windows
from kdjax.config.architecture import ModelConfig, RopeScalingConfig
from kdjax.config.model_rules import check_architecture
from kdjax.core.errors import UsageError

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_WRITTEN = {"gelu_tanh": "gelu_pytorch_tanh"}
_HINTS = typing.get_type_hints(ModelConfig)
_OFF_IS_NULL = ("attention_softcap", "logit_softcap")
_ROPE = ("rope_theta", "rope_fraction", "rope_scaling", "local_rope_theta")
# Fields that do not affect the function that the parameters compute.
_FREE = ("vocab_multiple", "dtype", "remat", "attention")


def read_config(values: Mapping[str, Any], path: str) -> tuple[Family, ModelConfig]:
    """Returns the family and the model that a `config.json` describes.

    Args:
        values: The file's content.
        path: Names the file in error messages.

    Raises:
        UsageError: The family is unknown, or a value is missing, invalid or
            unsupported.
    """
    family, hf = _family(values, path), Fields(values, path)
    hf.require({**COMMON, **family.required})
    fields = {field: _read(hf, field, key) for field, key in family.keys.items()}
    for field, most in (("layers", MOST_LAYERS), ("vocab_size", MOST)):
        if not 1 <= fields[field] <= most:
            hf.refuse(family.keys[field].names, "is out of range", fields[field])
    if family.rope is not None:
        fields |= read_rope(hf, family.rope, fields["max_length"])
    fields["windows"] = read_windows(hf, fields["layers"], family.windows)
    config = ModelConfig(**family.fixed, **fields)
    check_architecture(config, path)
    return family, config


def _family(values: Mapping[str, Any], path: str) -> Family:
    """Returns the family that transformers takes the file for."""
    name = values.get("model_type")
    if name == "mistral" and "layer_types" in values:
        name = "ministral"
    if not isinstance(name, str) or name not in FAMILIES:
        text = values.get("text_config")
        inner = text.get("model_type") if isinstance(text, Mapping) else None
        is_known = isinstance(inner, str) and inner in FAMILIES
        part = f"; its text model is a {inner}: save that alone" if is_known else ""
        raise UsageError(
            f"{path}: model_type {str(name)[:60]!r} is no family that kdjax loads; "
            f"those are {', '.join(FAMILIES)}{part}"
        )
    if values.get("quantization_config"):
        raise UsageError(
            f"{path}: the weights are quantised (quantization_config); choose a "
            "checkpoint in float32, float16 or bfloat16"
        )
    return FAMILIES[name]


def _read(hf: Fields, field: str, key: Key) -> Any:
    """Returns the value of one field, in its type in `ModelConfig`."""
    if field == "activation":
        return hf.choice(key.names, _ACTIVATIONS, key.default)
    readers = {int: hf.integer, float: hf.number, bool: hf.boolean}
    value = readers[_HINTS[field]](key.names, key.default, key.null)
    if _HINTS[field] is not bool and not value and hf.gives(key.names):
        # A 0 in `ModelConfig` stands for a default, or for "off".
        hf.refuse(key.names, "must be more than 0", value)
    if key.is_whole and value != int(value):
        hf.refuse(key.names, "must be a whole number", value)
    return value


def write_config(config: ModelConfig) -> tuple[Family, dict[str, Any]]:
    """Returns the family that fits a model, and its `config.json`.

    A family fits a model if reading back what was written gives the same function.

    Raises:
        UsageError: None fits; the message says how the nearest one differs.
    """
    wanted = canonical(config)
    nearest: tuple[str, list[str]] | None = None
    # GPT-2 fits every OPT: their usual activations tell them apart.
    for family in sorted(
        FAMILIES.values(), key=lambda family: _usual(family) != config.activation
    ):
        values = _write(family, wanted)
        try:
            found = canonical(read_config(values, family.name)[1])
        except UsageError:  # a key is missing without which the sizes are invalid
            continue
        lacking = _differences(found, wanted)
        if family.must_divide and config.width % config.heads:
            lacking.append("width (which heads must divide there)")
        if not lacking:
            return family, values
        if nearest is None or len(lacking) < len(nearest[1]):
            nearest = family.name, lacking
    name, differing = nearest or ("llama", ["its sizes"])
    raise UsageError(
        f"no architecture in transformers holds this model; the nearest, {name}, "
        f"differs in {', '.join(differing)}"
    )


def _usual(family: Family) -> str:
    """Returns the fixed or default activation of a family's models."""
    if "activation" in family.fixed:
        return str(family.fixed["activation"])
    return _ACTIVATIONS[family.keys["activation"].default]


def _write(family: Family, config: ModelConfig) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model_type": family.name,
        "architectures": [family.architecture],
    }
    for field, key in family.keys.items():
        value = getattr(config, field)
        if field == "activation":
            value = _WRITTEN.get(value, value)
        elif field in _OFF_IS_NULL:
            value = value or None
        elif key.is_whole:
            value = int(value)
        values[key.names.split()[0]] = value
    if family.rope is not None:
        values |= write_rope(config, family.rope)
    return values | write_windows(config, family.windows)


def canonical(config: ModelConfig) -> ModelConfig:
    """Returns the canonical config among all that describe the same function."""
    scaling, local = config.rope_scaling, config.local_rope_theta
    if scaling.kind == "none":
        scaling = RopeScalingConfig()
    elif scaling.kind == "linear":
        scaling = RopeScalingConfig("linear", scaling.factor)
    if not any(config.layer_windows) or (not local and scaling.kind == "none"):
        local = config.rope_theta
    plain = {name: getattr(ModelConfig, name) for name in _FREE}
    if config.positions == "learned":
        plain |= {name: getattr(ModelConfig, name) for name in _ROPE}
    else:
        plain |= {"rope_scaling": scaling, "local_rope_theta": local}
    return dataclasses.replace(
        config,
        kv_heads=config.key_value_heads,
        head_width=config.width_of_head,
        ffn_width=config.width_of_ffn,
        max_length=config.max_length or 2048,
        windows=config.layer_windows,
        query_scalar=config.query_scalar or float(config.width_of_head),
        **plain,
    )


def _differences(found: ModelConfig, wanted: ModelConfig) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(ModelConfig)
        if getattr(found, field.name) != getattr(wanted, field.name)
    ]
