"""The tensors of GGUF files: their names, and what the conversion to GGUF changes."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from kdjax.checkpoints.gguf.architectures import ARCHITECTURES
from kdjax.checkpoints.gguf.metadata import FREQUENCIES
from kdjax.checkpoints.hf.families import Family
from kdjax.config.architecture import ModelConfig
from kdjax.formats.safetensors import Index, Stored


class Change(NamedTuple):
    """What the conversion to GGUF changes in some tensors, and how to undo it.

    Attributes:
        pattern: Of the names of the tensors.
        undo: Returns a tensor of the file as it was published.
        apply: Returns a published tensor as the file holds it.
    """

    pattern: str
    undo: Callable[[Stored, ModelConfig], Stored]
    apply: Callable[[np.ndarray, ModelConfig], np.ndarray]


def gguf_family(family: Family, name: str) -> Family:
    """Returns a family with the tensors that a GGUF file of an architecture has."""
    architecture = ARCHITECTURES[name]
    rows = {}
    for parameter, (_, layout) in family.tensors.items():
        stem, _, leaf = parameter.removeprefix("layers/").rpartition("/")
        if not parameter.startswith("layers/"):
            rows[parameter] = architecture.names[parameter], layout
            continue
        suffix = "bias" if leaf == "bias" else "weight"
        tensor = f"blk.{{}}.{architecture.names[stem]}.{suffix}"
        rows[parameter] = tensor, architecture.layouts.get(parameter, layout)
    # Only the Llamas' graph divides the frequencies.
    ignored = re.escape(FREQUENCIES) + "$" if name == "llama" else "(?!)"
    return family._replace(tensors=rows, prefix="blk.", ignored=ignored)


def as_published(
    name: str, config: ModelConfig, stored: Mapping[str, Stored]
) -> dict[str, Stored]:
    """Returns the tensors with the changes of the conversion to GGUF undone."""
    tensors = dict(stored)
    for tensor, found in stored.items():
        for change in _CHANGES.get(name, ()):
            if re.search(change.pattern, tensor):
                tensors[tensor] = change.undo(found, config)
    return tensors


def as_converted(
    name: str, config: ModelConfig, tensor: str, values: np.ndarray
) -> np.ndarray:
    """Returns a published tensor, in float32, as a GGUF file holds it."""
    for change in _CHANGES.get(name, ()):
        if re.search(change.pattern, tensor):
            values = change.apply(values, config)
    return values


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


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Returns queries or keys with the two halves of each head interleaved."""
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _less_one(stored: Stored, _: ModelConfig) -> Stored:
    """Returns a norm's scale as Gemma publishes it; the file holds 1 + scale."""
    return stored._replace(read=lambda index: stored.read(index) - 1)


_PAIRS = (
    Change(
        r"\.attn_q\.",
        lambda stored, config: _halved(stored, config.heads),
        lambda values, config: _interleaved(values, config.heads),
    ),
    Change(
        r"\.attn_k\.",
        lambda stored, config: _halved(stored, config.key_value_heads),
        lambda values, config: _interleaved(values, config.key_value_heads),
    ),
)
_NORMS = (Change(r"norm\.weight$", _less_one, lambda values, _: values + 1),)
_CHANGES = {"llama": _PAIRS, "gemma": _NORMS, "gemma2": _NORMS, "gemma3": _NORMS}
