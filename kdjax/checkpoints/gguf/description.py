"""What a GGUF file says of a model: found by writing it and reading it back."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kdjax.checkpoints.gguf.architectures import ARCHITECTURES
from kdjax.checkpoints.gguf.metadata import (
    FREQUENCIES,
    llama3_factors,
    write_metadata,
)
from kdjax.checkpoints.gguf.model import read_architecture
from kdjax.checkpoints.gguf.tensors import gguf_family
from kdjax.checkpoints.hf.families import Family
from kdjax.checkpoints.hf.translate import canonical, write_config
from kdjax.config.architecture import ModelConfig
from kdjax.core.errors import UsageError
from kdjax.formats.safetensors import Stored


class Description(NamedTuple):
    """A model as a GGUF file says it.

    Attributes:
        name: `general.architecture`.
        family: The family, with the file's tensor names.
        metadata: The keys of the architecture.
        extra: The tensors that are not parameters.
    """

    name: str
    family: Family
    metadata: dict[str, Any]
    extra: dict[str, np.ndarray]


def describe(config: ModelConfig, path: str) -> Description:
    """Returns what a GGUF file says of a model, after reading it back.

    Args:
        config: The model.
        path: Names the file in error messages.

    Raises:
        UsageError: No GGUF file says the same.
    """
    family, values = write_config(config)
    names = {f: name for name, known in ARCHITECTURES.items() for f in known.families}
    if family.name not in names:
        raise UsageError(
            f"kdjax writes GGUF files of {', '.join(names)}, not of a {family.name}; "
            "export it to a directory"
        )
    name = names[family.name]
    family = gguf_family(family, name)
    metadata = write_metadata(name, values)
    extra = {}
    scaling = values.get("rope_scaling") or {}
    if scaling.get("rope_type") == "llama3":
        width = config.width_of_head
        extra[FREQUENCIES] = llama3_factors(config.rope_theta, width, scaling)
    rounded = {
        key: float(np.float32(value)) if isinstance(value, float) else value
        for key, value in metadata.items()
    }
    try:
        found = read_architecture(name, rounded, _shapes(config, family, extra), path)
    except UsageError as error:
        raise UsageError(f"GGUF cannot hold this model: {error}") from None
    if lacking := _differences(found[1], config):
        raise UsageError(
            f"GGUF's architecture {name!r} cannot hold this model; it differs in "
            f"{', '.join(lacking)}; export it to a directory"
        )
    return Description(name, family, metadata, extra)


def _shapes(
    config: ModelConfig, family: Family, extra: Mapping[str, np.ndarray]
) -> dict[str, Stored]:
    """Returns the tensors as the reader of the metadata sees them: by their shapes."""
    shape = (config.vocab_size, config.width)
    rows = {"embed/tokens"}
    rows |= {"head/kernel"} if not config.tie_embeddings else set()
    rows |= {"layers/attention/query/bias"} if config.qkv_bias else set()
    rows |= {"layers/attention/out/bias"} if config.out_bias else set()
    rows |= {"layers/mlp/down/bias"} if config.mlp_bias else set()
    dtype = np.dtype(np.float32)
    stored = {
        family.tensors[row][0].format(0): Stored(shape, dtype, "F32", _unread)
        for row in rows
    }
    return stored | {
        name: Stored(values.shape, dtype, "F32", values.__getitem__)
        for name, values in extra.items()
    }


def _unread(index: Any) -> np.ndarray:
    raise AssertionError("only the shapes of parameters are looked at")


def _differences(found: ModelConfig, wanted: ModelConfig) -> list[str]:
    """Returns the fields in which two functions differ, in float32."""
    one, other = _rounded(canonical(found)), _rounded(canonical(wanted))
    lacking = [
        key
        for key, value in one.items()
        if value != other[key] and key != "rope_scaling"
    ]
    is_scaled = wanted.positions == "rope"
    if is_scaled and not np.allclose(_divisors(found), _divisors(wanted), rtol=1e-5):
        lacking.append("rope_scaling")
    return lacking


def _divisors(config: ModelConfig) -> np.ndarray:
    """Returns by what the scaling divides each frequency."""
    scaling, width = config.rope_scaling, config.width_of_head
    if scaling.kind == "llama3":
        return llama3_factors(
            config.rope_theta,
            width,
            {
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_factor,
                "high_freq_factor": scaling.high_factor,
                "original_max_position_embeddings": scaling.original_length,
            },
        )
    return np.full(width // 2, scaling.factor if scaling.kind == "linear" else 1.0)


def _rounded(config: ModelConfig) -> dict[str, Any]:
    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(item) for key, item in value.items()}
        return float(np.float32(value)) if isinstance(value, float) else value

    return {k: rounded(v) for k, v in dataclasses.asdict(config).items()}
