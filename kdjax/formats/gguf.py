"""The header of a GGUF file: metadata, and where the tensors are.

Every length is checked against the rest of the file before it is used, so that a
damaged file can neither hang the reader nor exhaust memory.
"""

import functools
import math
import os
import struct
from typing import Any, NamedTuple

import gguf
import numpy as np
from etils import epath

from kdjax.core.errors import UsageError

_VERSIONS = (2, 3)
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9

_RANK = 4


class TensorInfo(NamedTuple):
    """A tensor in the file.

    Attributes:
        shape: Rows first; the file stores the dimensions in reverse.
        kind: The quantization format, such as Q4_1.
        start: The offset of its first byte.
        size: Its size in bytes.
    """

    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    start: int
    size: int


class Header(NamedTuple):
    """The metadata and tensor table, and the file's bytes, memory-mapped."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    data: np.ndarray


def read_header(path: epath.Path) -> Header:
    """Returns the header of a GGUF file, cached until the file changes.

    A run reads it twice: for the tokenizer of its data and for its teacher.

    Raises:
        UsageError: The file is missing, not GGUF, truncated, or contradicts itself.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error})") from None
    return _read(os.fspath(path), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4)
def _read(path: str, mtime_ns: int, size: int) -> Header:
    """Returns the header; time and size are part of the cache key."""
    del mtime_ns, size  # distinguish successive files of the same name
    try:
        data = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise UsageError(f"{path} cannot be read ({error})") from None
    cursor = _Cursor(data, path)
    if cursor.take(4) != b"GGUF":
        raise cursor.error("it is not a GGUF file")
    if (version := cursor.scalar("I")) not in _VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
            raise cursor.error(
                "it is big-endian; convert it with gguf-convert-endian (pip install "
                "gguf)"
            )
        raise cursor.error(f"its version is {version}; kdjax reads 2 and 3")
    tensor_count, key_count = cursor.scalar("Q"), cursor.scalar("Q")
    cursor.expect(tensor_count, 24)
    cursor.expect(key_count, 13)
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.string()
        if key in metadata:
            raise cursor.error(f"the key {key[:80]!r} occurs twice")
        metadata[key] = cursor.value(cursor.scalar("I"))
    infos: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        name, rank = cursor.string(), cursor.scalar("I")
        if not 1 <= rank <= _RANK or name in infos:
            raise cursor.error(f"the entry of tensor {name[:80]!r} is invalid")
        shape = tuple(cursor.scalar("Q") for _ in range(rank))[::-1]
        infos[name] = shape, cursor.scalar("I"), cursor.scalar("Q")
    align = metadata.get("general.alignment", 32)
    if not isinstance(align, int) or not 1 <= align <= 2**20 or align & (align - 1):
        raise cursor.error(
            f"general.alignment = {str(align)[:40]} is not a power of two"
        )
    begin = -(-cursor.position // align) * align
    tensors = {name: _place(name, *info, begin, cursor) for name, info in infos.items()}
    return Header(metadata, tensors, data)


def _place(
    name: str,
    shape: tuple[int, ...],
    kind: int,
    offset: int,
    begin: int,
    cursor: "_Cursor",
) -> TensorInfo:
    """Returns a tensor's place after checking that it lies inside the file."""
    try:
        known = gguf.GGMLQuantizationType(kind)
    except ValueError:
        raise cursor.error(
            f"the tensor {name[:80]!r} has the unknown format {kind}"
        ) from None
    block, size = gguf.GGML_QUANT_SIZES[known]
    if shape[-1] % block:
        raise cursor.error(
            f"the tensor {name[:80]!r} has rows of length {shape[-1]}, which is "
            f"not a multiple of the block size {block}"
        )
    total = math.prod(shape) // block * size
    if begin + offset + total > len(cursor.data):
        raise cursor.error(
            f"the tensor {name[:80]!r} ends past the file's {len(cursor.data):,} bytes"
        )
    return TensorInfo(shape, known, begin + offset, total)


class _Cursor:
    """A bounds-checked reading position in the file's bytes."""

    def __init__(self, data: np.ndarray, path: str) -> None:
        self.data, self.position, self._path = data, 0, path
        self._bytes = data.data  # a memoryview: its slices are cheaper than an array's

    def error(self, reason: str) -> UsageError:
        return UsageError(f"{self._path} cannot be used: {reason}")

    def expect(self, count: int, size: int) -> None:
        """Raises unless `count` items of at least `size` bytes each remain."""
        if count * size > len(self.data) - self.position:
            raise self.error("it is truncated, or its header is damaged")

    def take(self, size: int) -> bytes:
        self.expect(size, 1)
        self.position += size
        return self._bytes[self.position - size : self.position].tobytes()

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        # The shortest decimal: 1e-05, not the double nearest to that float.
        return float(str(np.float32(value))) if code == "f" else value

    def string(self) -> str:
        return self.take(self.scalar("Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(self._code(kind))
        inner, count = self.scalar("I"), self.scalar("Q")
        if inner == _ARRAY:
            raise self.error("it contains arrays of arrays")
        if inner == _STRING:
            self.expect(count, 8)
            return [self.string() for _ in range(count)]
        dtype = np.dtype(f"<{self._code(inner)}")
        self.expect(count, dtype.itemsize)
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()

    def _code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self.error(f"it contains a value of unknown type {kind}")
        return _SCALARS[kind]
