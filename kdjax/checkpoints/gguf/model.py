"""GGUF files as checkpoints: the family, the architecture and the tensors."""

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
from etils import epath

from kdjax.checkpoints.gguf.architectures import ARCHITECTURES
from kdjax.checkpoints.gguf.metadata import read_values
from kdjax.checkpoints.gguf.tensors import as_published, gguf_family
from kdjax.checkpoints.hf.families import Family
from kdjax.checkpoints.hf.translate import read_config
from kdjax.config.architecture import ModelConfig
from kdjax.core.errors import UsageError
from kdjax.formats.gguf import Header, TensorInfo
from kdjax.formats.safetensors import DTYPES, Index, Stored

_QUANT_VERSION = gguf.GGML_QUANT_VERSION
# What the package dequantises.
_QUANTS = frozenset(
    (
        *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
        *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
        *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
        *("IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4"),
    )
)


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
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UsageError(
            f"{path}: general.architecture {str(name)[:60]!r} is none that kdjax loads "
            f"from GGUF; those are {', '.join(ARCHITECTURES)}"
        )
    stored = {
        tensor: _stored(header.data, info) for tensor, info in header.tensors.items()
    }
    version = header.metadata.get("general.quantization_version", _QUANT_VERSION)
    is_quantised = any(tensor.kind not in DTYPES for tensor in stored.values())
    if is_quantised and version != _QUANT_VERSION:
        raise UsageError(
            f"{path}: general.quantization_version must be {_QUANT_VERSION}; it is "
            f"{str(version)[:20]}"
        )
    family, config = read_architecture(name, header.metadata, stored, str(path))
    return family, config, as_published(name, config, stored)


def read_architecture(
    name: str, metadata: Mapping[str, Any], stored: Mapping[str, Stored], path: str
) -> tuple[Family, ModelConfig]:
    """Returns the family, with the file's tensor names, and the architecture.

    Args:
        name: `general.architecture`.
        metadata: The content of the header.
        stored: The tensors by name.
        path: Names the file in error messages.

    Raises:
        UsageError: The metadata are invalid, or hold what kdjax does not compute.
    """
    values = read_values(name, metadata, stored, path)
    family, config = read_config(values, path)
    return gguf_family(family, name), config


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
