"""Writes models as GGUF files that llama.cpp and transformers load unchanged."""

import math
import uuid
from collections.abc import Mapping

import gguf
import jax
import numpy as np
from etils import epath
from gguf import GGMLQuantizationType as _Kind

from kdjax.checkpoints.gguf.description import Description, describe
from kdjax.checkpoints.gguf.tensors import as_converted
from kdjax.checkpoints.gguf.writer import Writer
from kdjax.checkpoints.hf.matching import file_sizes
from kdjax.checkpoints.hf.save import Part, assemble, tensor_parts
from kdjax.checkpoints.hf.translate import canonical
from kdjax.config.architecture import ModelConfig
from kdjax.core.errors import UsageError
from kdjax.core.logging import Progress, say
from kdjax.models.model import Model, Params
from kdjax.parallel.sharding import barrier
from kdjax.text import TextTokenizer, gguf_tokenizer_metadata

# The formats, and what general.file_type calls them.
GGUF_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "BF16": gguf.LlamaFileType.MOSTLY_BF16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
_POSITIONS = "position_embd.weight"


def save_gguf(
    path: epath.PathLike,
    model: Model,
    params: Params,
    *,
    tokenizer: TextTokenizer | None,
    dtype: str = "F32",
) -> None:
    """Writes a GGUF file, atomically and never over another file.

    Every process must call it; only the first one writes.

    Args:
        path: A file that does not exist yet; its name must end in .gguf.
        model: Its architecture must be one that llama.cpp computes.
        params: The parameters.
        tokenizer: Written into the same file; None: the file has no tokenizer.
        dtype: "F32", "F16", "BF16" or "Q8_0". As in llama.cpp, norms, biases and
            learned positions stay in float32, and a matrix whose rows are not a
            multiple of 32 becomes F16 instead of Q8_0.

    Raises:
        UsageError: The file exists, the format is unknown or too narrow for a tensor,
            or GGUF cannot express the model or its tokenizer.
    """
    target = epath.Path(path).expanduser()
    if dtype not in GGUF_TYPES:
        raise UsageError(
            f"the GGUF type must be one of {', '.join(GGUF_TYPES)}; it is {dtype!r}"
        )
    if target.suffix != ".gguf":
        raise UsageError(f"{target} must have a name that ends in .gguf")
    _check_free(target)
    described = describe(model.config, target.name)
    metadata = {
        **described.metadata,
        "general.type": "model",
        "general.name": target.stem,
        "general.file_type": int(GGUF_TYPES[dtype]),
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **gguf_tokenizer_metadata(tokenizer, model.config.vocab_size),
    }
    _warn(described.name, model.config)
    described = described._replace(metadata=metadata)
    parts = tensor_parts(described.family, model, params)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    is_first = jax.process_index() == 0
    try:
        if is_first:
            target.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, described, model.config, parts, dtype)
        if is_first:
            _check_free(target)  # writing may have taken long
            temporary.replace(target)
    finally:
        if is_first and temporary.exists():
            temporary.unlink()
    barrier(f"saved {target.name}")


def _check_free(target: epath.Path) -> None:
    if target.exists():
        raise UsageError(f"{target} exists already; choose another name")


def _warn(name: str, config: ModelConfig) -> None:
    """Tells what other programs are known to leave out of a file that says it."""
    window = max(config.layer_windows)
    is_first = jax.process_index() == 0
    is_short = 0 < window < canonical(config).max_length
    if is_first and name == "llama" and is_short:
        say(
            "llama.cpp and transformers ignore the sliding window of a Mistral's GGUF "
            f"file: there, texts longer than {window} tokens get other logits"
        )


def _write(
    path: epath.Path,
    described: Description,
    config: ModelConfig,
    parts: Mapping[str, list[Part]],
    dtype: str,
) -> None:
    """Writes the file, holding one tensor at a time."""
    name, extra, kind = described.name, described.extra, _Kind[dtype]
    sizes = file_sizes(config)
    shapes = {tensor: p[0].layout.file_shape(sizes) for tensor, p in parts.items()}
    shapes |= {tensor: values.shape for tensor, values in extra.items()}
    kinds = {tensor: _kind_of(tensor, shapes[tensor], kind) for tensor in shapes}
    is_first = jax.process_index() == 0
    writer = Writer(None, name)
    for tensor, shape in shapes.items():
        block, size = gguf.GGML_QUANT_SIZES[kinds[tensor]]
        total = math.prod(shape) // block * size
        numbers = np.dtype(np.float32)  # the shape counts numbers, not bytes
        writer.add_tensor_info(tensor, shape, numbers, total, kinds[tensor])
    try:
        if is_first:
            writer.begin(path, described.metadata)
        count = sum(map(math.prod, shapes.values()))
        with Progress("saving", count, unit="number", enabled=is_first) as progress:
            for tensor, shape in shapes.items():
                whole = extra.get(tensor)
                if whole is None:
                    whole = assemble(parts[tensor], sizes).astype(np.float32)
                    whole = as_converted(name, config, tensor, whole)
                if is_first:
                    writer.write_tensor_data(_encoded(tensor, whole, kinds[tensor]))
                progress.update(math.prod(shape))
    finally:
        writer.close()


def _kind_of(tensor: str, shape: tuple[int, ...], kind: _Kind) -> _Kind:
    """Returns a tensor's format, as llama.cpp's converter chooses it."""
    if len(shape) < 2 or tensor == _POSITIONS:
        return _Kind.F32
    return kind if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else _Kind.F16


def _encoded(tensor: str, values: np.ndarray, kind: _Kind) -> np.ndarray:
    """Returns a tensor in its format in the file."""
    with np.errstate(over="ignore", invalid="ignore"):
        encoded = gguf.quantize(np.ascontiguousarray(values), kind)
        if not np.isfinite(gguf.dequantize(encoded, kind)).all():
            which = "F32 or BF16" if np.isfinite(values).all() else "finite numbers"
            raise UsageError(
                f"the tensor {tensor!r} does not fit in {kind.name}; use {which}"
            )
    return encoded
