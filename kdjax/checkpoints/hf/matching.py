"""Matches a checkpoint's tensors to parameters, with all checks up front."""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from kdjax.checkpoints.hf.families import Family
from kdjax.checkpoints.hf.layouts import Layout, parse
from kdjax.checkpoints.hf.naming import Names, tied
from kdjax.config.architecture import ModelConfig
from kdjax.core.errors import UsageError
from kdjax.formats.safetensors import Stored
from kdjax.models.model import build
from kdjax.parallel.placement import name_of


class Source(NamedTuple):
    """The tensors that hold a parameter.

    Attributes:
        names: The tensor's name in the file, one per layer if the parameter is stacked.
        stored: The tensors of these names.
        layout: How their axes map to the parameter's.
        is_stacked: Whether the parameter has a leading layer axis.
    """

    names: tuple[str, ...]
    stored: tuple[Stored, ...]
    layout: Layout
    is_stacked: bool


def match(
    family: Family, config: ModelConfig, tensors: Mapping[str, Stored]
) -> dict[str, Source]:
    """Returns the source of every parameter, by its path.

    Raises:
        UsageError: The file does not hold exactly this model's tensors, in their shapes
            and in a format that kdjax reads.
    """
    sizes = file_sizes(config)
    limit = max((math.prod(t.shape) for t in tensors.values()), default=0)
    # Checked before anything of these sizes is built, even the layers' names.
    if config.layers > len(tensors) or max(sizes.values()) > limit:
        raise UsageError(
            f"the config describes {config.layers} layers and sizes up to "
            f"{max(sizes.values())}; the {len(tensors)} tensors, of at most {limit} "
            "elements, are another model's"
        )
    names = Names(family, tensors)
    embedding, head = (family.tensors[p][0] for p in ("embed/tokens", "head/kernel"))
    stand_in = tied(names, embedding, head) if config.tie_embeddings else {}
    sources, used = {}, set()
    leaves, _ = jax.tree_util.tree_flatten_with_path(parameter_shapes(config))
    for path in (name_of(path) for path, _ in leaves):
        name, text = family.tensors[path]
        is_stacked = path.startswith("layers/")
        layout, found = parse(text), []
        for layer in range(config.layers if is_stacked else 1):
            usual = name.format(layer)
            stored = stand_in.get(usual) or names(usual)
            if stored is None:
                raise UsageError(names.missing(usual, head))
            _check_tensor(stored, tensors[stored], layout.file_shape(sizes))
            found.append(stored)
        parts = tuple(tensors[stored] for stored in found)
        sources[path] = Source(tuple(found), parts, layout, is_stacked)
        used |= set(found)
    for name in sorted(tensors.keys() - used):
        if re.search(family.ignored, name):
            continue
        if name == names(head) and config.tie_embeddings:
            _check_tied(name, tensors[name], sources["embed/tokens"].stored[0])
            continue
        raise UsageError(names.unexpected(name))
    return sources


def file_sizes(config: ModelConfig) -> dict[str, int]:
    """Returns the size in the file of each letter of a layout."""
    sizes = {
        "d": config.width,
        "h": config.heads,
        "g": config.key_value_heads,
        "k": config.width_of_head,
        "f": config.width_of_ffn,
        "v": config.vocab_size,
    }
    return sizes | ({"p": config.max_length} if config.positions == "learned" else {})


@functools.lru_cache(maxsize=64)
def parameter_shapes(config: ModelConfig) -> Any:
    """Returns the tree of the parameters' shapes."""
    return jax.eval_shape(build(config).init, jax.random.key(0))


def _check_tensor(name: str, found: Stored, shape: tuple[int, ...]) -> None:
    if found.shape != shape:
        raise UsageError(
            f"the tensor {name!r} has the shape {found.shape}; its config makes it "
            f"{shape}"
        )
    if found.dtype is None:
        raise UsageError(
            f"the tensor {name!r} is stored as {found.kind}, which kdjax does not "
            "read; convert it to float32, float16 or bfloat16"
        )


def _check_tied(name: str, head: Stored, embedding: Stored) -> None:
    if not _equal(head, embedding):
        raise UsageError(
            f"the tensor {name!r} differs from the embedding that the config ties it "
            "to; set tie_word_embeddings to false there"
        )


def _equal(a: Stored, b: Stored, rows: int = 1024) -> bool:
    """Returns whether two tensors hold the same bytes, without reading both at once."""
    if (a.shape, a.kind) != (b.shape, b.kind):
        return False
    for low in range(0, a.shape[0], rows):
        part = (slice(low, min(low + rows, a.shape[0])),)
        if a.read(part).tobytes() != b.read(part).tobytes():
            return False
    return True
