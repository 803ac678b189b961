"""Writes models as directories that transformers loads unchanged."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from safetensors.numpy import save_file

from kdjax.checkpoints.hf.families import Family
from kdjax.checkpoints.hf.layouts import Layout, Sizes, parse
from kdjax.checkpoints.hf.matching import file_sizes
from kdjax.checkpoints.hf.translate import write_config
from kdjax.core.errors import UsageError
from kdjax.core.logging import Progress
from kdjax.formats import INDEX, SINGLE
from kdjax.models.model import Model, Params
from kdjax.parallel.placement import name_of
from kdjax.parallel.sharding import barrier

SHARD_BYTES = 4 * 2**30
# What other programs write as one file; a directory of such a name would mislead.
_FILES = re.compile(
    r"\.(bin|ckpt|ggml|gguf|h5|json|msgpack|npz|onnx|pkl|pth?|safetensors|tar|zip)"
)


@runtime_checkable
class Tokenizer(Protocol):
    """The interface of a tokenizer, such as `kdjax.data.TextTokenizer`."""

    @property
    def end_of_text(self) -> int:
        """The id that ends a document."""

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids that end a text, `end_of_text` first."""

    def files(self) -> dict[str, str]:
        """Returns the contents of its files by name."""


class Part(NamedTuple):
    """A parameter, or one layer of it, and its layout in a tensor of the file."""

    leaf: Any
    layer: int | None
    layout: Layout


def save_pretrained(
    path: epath.PathLike,
    model: Model,
    params: Params,
    *,
    tokenizer: Tokenizer | None,
    card: str,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a directory in the Hugging Face format, atomically.

    Every process must call it; only the first one writes.

    Args:
        path: A directory that does not exist yet, or is empty.
        model: Its architecture must belong to a family in transformers.
        params: Written in their own precision.
        tokenizer: Written beside the weights; None: no tokenizer is written.
        card: The model card, in Markdown.
        shard_bytes: Weights larger than this are split into files with an index.

    Raises:
        UsageError: The directory is not empty or has the name of a file, or no family
            fits the model.
    """
    target = epath.Path(path).expanduser()
    _check_name(target)
    family, config = write_config(model.config)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists already; choose another directory")
    texts = _texts(config, params, tokenizer, card)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    is_first = jax.process_index() == 0
    try:
        if is_first:
            temporary.mkdir(parents=True)
            for name, text in texts.items():
                (temporary / name).write_text(text, encoding="utf-8")
        _write_weights(temporary, family, model, params, shard_bytes)
        if is_first:
            if target.exists():
                target.rmdir()  # empty; a rename cannot replace a directory
            temporary.replace(target)
    finally:
        if is_first and temporary.exists():
            temporary.rmtree()
    barrier(f"saved {target.name}")


def _check_name(target: epath.Path) -> None:
    """Raises if a directory has the name of a file in another format."""
    if _FILES.fullmatch(target.suffix.lower()):
        raise UsageError(
            f"{target} would be a directory; choose a name without {target.suffix} "
            "(GGUF files are written by save_gguf, or by kdjax.export --to=NAME.gguf)"
        )


def _texts(
    config: dict[str, Any], params: Params, tokenizer: Tokenizer | None, card: str
) -> dict[str, str]:
    """Returns the contents of all files but the weights."""
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(params)}
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    pad = None if tokenizer is None else tokenizer.end_of_text
    stops = [] if tokenizer is None else tokenizer.stops
    end = list(stops) if len(stops) > 1 else pad
    # Explicit nulls: the classes' defaults are ids of other vocabularies.
    tokens = {"bos_token_id": None, "eos_token_id": end, "pad_token_id": None}
    config = {**config, **tokens, "dtype": dtype, "torch_dtype": dtype}
    generation = {"eos_token_id": end, "pad_token_id": pad}
    return {
        "config.json": json.dumps(config, indent=2) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
        "README.md": card,
        **({} if tokenizer is None else tokenizer.files()),
    }


def _write_weights(
    directory: epath.Path,
    family: Family,
    model: Model,
    params: Params,
    shard_bytes: int,
) -> None:
    """Writes the tensors, one file at a time."""
    sizes = file_sizes(model.config)
    tensors = tensor_parts(family, model, params)
    size_of = {name: _bytes(parts[0], sizes) for name, parts in tensors.items()}
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in size_of.items():
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    total = sum(size_of.values())
    weight_map: dict[str, str] = {}
    is_first = jax.process_index() == 0
    with Progress("saving", total, unit="byte", enabled=is_first) as progress:
        for number, names in enumerate(shards, start=1):
            file = SINGLE
            if len(shards) > 1:
                file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            content = {}
            for name in names:
                content[name] = assemble(tensors[name], sizes)
                progress.update(size_of[name])
            if is_first:
                save_file(content, os.fspath(directory / file), {"format": "pt"})
                # safetensors creates files that only their owner can read.
                shutil.copymode(directory / "config.json", directory / file)
            weight_map |= dict.fromkeys(names, file)
    if is_first and len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def tensor_parts(family: Family, model: Model, params: Params) -> dict[str, list[Part]]:
    """Returns the parts of each tensor by its name, layers in order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    named = {name_of(path): leaf for path, leaf in leaves}

    def walk() -> Iterator[tuple[str, Part]]:
        for layer in (None, *range(model.config.layers)):
            for path, leaf in named.items():
                if path.startswith("layers/") == (layer is not None):
                    name, text = family.tensors[path]
                    yield name.format(layer), Part(leaf, layer, parse(text))

    tensors: dict[str, list[Part]] = {}
    for name, part in walk():
        tensors.setdefault(name, []).append(part)
    return tensors


def _bytes(part: Part, sizes: Sizes) -> int:
    return int(np.prod(part.layout.file_shape(sizes))) * part.leaf.dtype.itemsize


def assemble(parts: list[Part], sizes: Sizes) -> np.ndarray:
    """Assembles a tensor of the file from its parts; every process must call it."""
    tensor = np.zeros(parts[0].layout.file_shape(sizes), parts[0].leaf.dtype)
    for leaf, layer, layout in parts:
        part = leaf if layer is None else leaf[layer]
        if isinstance(part, jax.Array) and not part.is_fully_addressable:
            part = multihost_utils.process_allgather(part, tiled=True)
        layout.write(tensor, np.asarray(part), sizes)
    return tensor
