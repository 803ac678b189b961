"""Safetensors files: checked before anything is read, and read in parts.

Nothing is ever unpickled, and no memory is allocated on the word of a header alone.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from kdjax.core.errors import UsageError
from kdjax.core.files import read_json
from kdjax.formats import INDEX, SINGLE

Index = tuple[slice, ...]  # a part of a tensor
DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# Errors that arbitrary JSON can raise when it is read as a header.
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RecursionError,
)
_LFS = b"version https://git-lfs"  # how a pointer begins that stands for a file
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class Stored(NamedTuple):
    """A tensor in a file.

    Attributes:
        shape: Its shape in the file.
        dtype: The dtype it is read as; None for a format that kdjax does not read.
        kind: The file's own name for the format.
        read: Returns the part that an index of slices selects.
    """

    shape: tuple[int, ...]
    dtype: np.dtype | None
    kind: str
    read: Callable[[Index], np.ndarray]


def open_weights(directory: epath.Path) -> dict[str, Stored]:
    """Returns the tensors of a directory's safetensors files by name.

    Raises:
        UsageError: There are none, or files, index and headers are inconsistent.
    """
    if (directory / SINGLE).exists():  # transformers gives it precedence, too
        return _open_file(directory / SINGLE)
    if (directory / INDEX).exists():
        return _open_shards(directory)
    raise UsageError(_no_weights(directory))


def _no_weights(directory: epath.Path) -> str:
    for name in _PICKLES:
        if (directory / name).exists():
            return (
                f"{directory / name} is a pickle, which can run code when it is read; "
                "convert it with transformers: for c in (AutoModelForCausalLM, "
                f"AutoTokenizer): c.from_pretrained('{directory}').save_pretrained("
                f"'{directory}-safetensors')"
            )
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    found = f" (it has {', '.join(others)[:120]})" if others else ""
    return (
        f"{directory} contains neither {SINGLE} nor {INDEX}{found}; choose another "
        "directory"
    )


def _open_shards(directory: epath.Path) -> dict[str, Stored]:
    index = read_json(directory / INDEX).get("weight_map")
    if not isinstance(index, Mapping) or not index:
        raise UsageError(f"{directory / INDEX} has no weight_map; download it again")
    tensors: dict[str, Stored] = {}
    for file in sorted(set(map(str, index.values()))):
        if epath.Path(file).name != file or not file.endswith(".safetensors"):
            raise UsageError(
                f"{directory / INDEX} names {file[:80]!r}, which is not a "
                "safetensors file beside it"
            )
        found = _open_file(directory / file)
        wanted = {name for name, where in index.items() if where == file}
        if differing := sorted(wanted ^ found.keys()):
            where = "the index" if differing[0] in wanted else directory / file
            raise UsageError(
                f"{differing[0]!r} is only in {where}: {INDEX} and {file} do not "
                "match; download both again"
            )
        tensors |= found
    return tensors


def _open_file(path: epath.Path) -> dict[str, Stored]:
    if not path.exists():
        raise UsageError(f"{path} is missing, though the index names it; download it")
    try:
        # The library checks the header against the file. Its slices are copies,
        # though, so the data are memory-mapped here.
        with safetensors.safe_open(str(path), "numpy"):
            data = np.memmap(path, np.uint8, "r")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UsageError(_damage(path, error)) from None
    header, begin = _header(path)
    return {name: _stored(data[begin:], entry) for name, entry in header.items()}


def _header(path: epath.Path) -> tuple[dict[str, Any], int]:
    """Returns a file's tensor entries and the offset of its data."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, path.stat().length)))
    header.pop("__metadata__", None)
    return header, 8 + length


def _stored(data: np.ndarray, entry: Mapping[str, Any]) -> Stored:
    shape, kind = tuple(entry["shape"]), entry["dtype"]
    dtype = DTYPES.get(kind)

    def read(index: Index) -> np.ndarray:
        begin, end = entry["data_offsets"]
        return data[begin:end].view(dtype).reshape(shape)[index]

    return Stored(shape, dtype, kind, read)


def _damage(path: epath.Path, error: Exception) -> str:
    """Returns what is wrong with a file that the library refused, in one line.

    The library checks the sizes and offsets of all tensors, but does not say which
    tensor is the first that a truncated file lacks.
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            return f"{path} is a pointer of Git LFS; run git lfs pull"
    reason = " ".join(str(error).split())[:200]
    message = f"{path} cannot be read ({reason}); download it again"
    with contextlib.suppress(*_UNREADABLE):
        size = path.stat().length
        header, begin = _header(path)
        ends = {name: entry["data_offsets"][1] for name, entry in header.items()}
        lacking = [name for name, end in ends.items() if begin + end > size]
        if lacking:
            first = min(lacking, key=ends.__getitem__)
            message += f": {first[:80]!r} ends past the file's {size:,} bytes"
    return message
