"""The header of a GGUF file: metadata, and where the tensors are.

Every length is compared with what is left of the file before it is believed, so that a
damaged file can neither make the reader wait nor fill the memory.
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
        shape: Rows first; the file has it the other way round.
        kind: The format, such as Q4_1.
        start: Where its first byte is.
        size: How many bytes it has.
    """

    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    start: int
    size: int


class Header(NamedTuple):
    """Everything before the data, and the file's bytes, mapped and not read."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    data: np.ndarray


def read_header(path: epath.Path) -> Header:
    """Returns the header of a GGUF file, parsed once for as long as it stays the same.

    A run asks for its data's tokenizer and for its teacher.

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
    """Returns the header of the file that was there at that time, in that size."""
    del mtime_ns, size  # what tells one file from the next of the same name
    try:
        data = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise UsageError(f"{path} cannot be read ({error})") from None
    cursor = _Cursor(data, path)
    if cursor.take(4) != b"GGUF":
        raise cursor.error("it is no GGUF file")
    if (version := cursor.scalar("I")) not in _VERSIONS:
        raise cursor.error(f"its version is {version}; kdjax reads 2 and 3")
    tensor_count, key_count = cursor.scalar("Q"), cursor.scalar("Q")
    cursor.expect(tensor_count, 24)
    cursor.expect(key_count, 13)
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.string()
        if key in metadata:
            raise cursor.error(f"the key {key[:80]!r} is there twice")
        metadata[key] = cursor.value(cursor.scalar("I"))
    infos: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        name, rank = cursor.string(), cursor.scalar("I")
        if not 1 <= rank <= _RANK or name in infos:
            raise cursor.error(f"the tensor {name[:80]!r} makes no sense")
        shape = tuple(cursor.scalar("Q") for _ in range(rank))[::-1]
        infos[name] = shape, cursor.scalar("I"), cursor.scalar("Q")
    align = metadata.get("general.alignment", 32)
    if not isinstance(align, int) or not 1 <= align <= 2**20 or align & (align - 1):
        raise cursor.error(f"general.alignment = {str(align)[:40]} is no power of two")
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
    """Returns where a tensor is, inside the file."""
    try:
        known = gguf.GGMLQuantizationType(kind)
    except ValueError:
        raise cursor.error(f"the tensor {name[:80]!r} has the format {kind}") from None
    block, size = gguf.GGML_QUANT_SIZES[known]
    if shape[-1] % block:
        raise cursor.error(
            f"the tensor {name[:80]!r} has rows of {shape[-1]}, which blocks of "
            f"{block} do not fill"
        )
    total = math.prod(shape) // block * size
    if begin + offset + total > len(cursor.data):
        raise cursor.error(
            f"the tensor {name[:80]!r} ends behind the file's {len(cursor.data):,} "
            "bytes"
        )
    return TensorInfo(shape, known, begin + offset, total)


class _Cursor:
    """A position in the bytes that cannot leave them."""

    def __init__(self, data: np.ndarray, path: str) -> None:
        self.data, self.position, self._path = data, 0, path
        self._bytes = data.data  # a memoryview, whose slices cost less than an array's

    def error(self, reason: str) -> UsageError:
        return UsageError(f"{self._path} cannot be used: {reason}")

    def expect(self, count: int, size: int) -> None:
        """Raises unless `count` things of at least `size` bytes can still come."""
        if count * size > len(self.data) - self.position:
            raise self.error("it is truncated, or its header is damaged")

    def take(self, size: int) -> bytes:
        self.expect(size, 1)
        self.position += size
        return self._bytes[self.position - size : self.position].tobytes()

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        # As it was written: 1e-05, and not the nearest double of that float.
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
            raise self.error("it holds arrays of arrays")
        if inner == _STRING:
            self.expect(count, 8)
            return [self.string() for _ in range(count)]
        dtype = np.dtype(f"<{self._code(inner)}")
        self.expect(count, dtype.itemsize)
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()

    def _code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self.error(f"it holds a value of the unknown type {kind}")
        return _SCALARS[kind]
