"""Files as streams of bytes and of characters, unpacked on the way."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

PIECE = 1 << 16  # characters of a long text that are handed on at once

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# How packed files start.
_PACKED = {
    b"\x1f\x8b": ".gz",
    b"BZh": ".bz2",
    b"\xfd7zXZ\0": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
}


class Unreadable(Exception):
    """A file or a part of it is not what it should be; the message says why."""


OPENERS: dict[str, Callable[[pathlib.Path], Any]] = {
    "": lambda path: path.open("rb"),
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda path: pa.input_stream(path, compression="zstd"),
}


@contextlib.contextmanager
def unpacked(path: pathlib.Path, packing: str) -> Iterator[io.BufferedReader]:
    """Opens a file, unpacking it by the suffix `packing`, one of `OPENERS`.

    Raises:
        Unreadable: It cannot be opened or, within the block, read or unpacked.
    """
    try:
        with OPENERS[packing](path) as file:
            # pyarrow's streams have `readinto`, but no `readline` that stops early.
            yield io.BufferedReader(file, 1 << 18)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        what = f"cannot be unpacked as {packing}" if packing else "cannot be read"
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise Unreadable(f"{what} ({reason})") from None


def decoded(file: io.BufferedReader) -> Iterator[str]:
    r"""Yields a file's characters without a byte-order mark; "\r\n" becomes "\n".

    Raises:
        Unreadable: It is not UTF-8.
    """
    bytes_decoder = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(bytes_decoder, translate=True)
    position, is_first = 0, True
    while True:
        chunk = file.read(PIECE)
        if is_first:
            check_start(chunk)
        pending = len(bytes_decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            at = position - pending + error.start
            byte = error.object[error.start]
            raise Unreadable(not_utf8(byte, at)) from None
        position += len(chunk)
        if is_first and text:
            text, is_first = text.removeprefix("\ufeff"), False
        if text:
            yield text
        if not chunk:
            return


def check_start(start: bytes) -> None:
    """Raises `Unreadable` if a file starts as one that is packed, or UTF-16."""
    for mark, packing in _PACKED.items():
        if start.startswith(mark):
            raise Unreadable(f"is packed; its name must end with {packing}")
    if start.startswith(_UTF16):
        raise Unreadable("is UTF-16; convert it, such as by iconv -f UTF-16 -t UTF-8")


def not_utf8(byte: int, position: int) -> str:
    """Says that a byte of a text is not UTF-8, and how to convert the text."""
    return (
        f"is not UTF-8 (byte 0x{byte:02x} at {position:,}); convert it, such as by "
        "iconv -f WINDOWS-1252 -t UTF-8"
    )


def by_lines(chunks: Iterator[str]) -> Iterator[str]:
    """Joins and cuts chunks to pieces of about `PIECE` characters that are whole lines.

    Only a line that is longer is cut within.
    """
    rest = ""
    for chunk in chunks:
        rest += chunk
        while len(rest) > 2 * PIECE:
            cut = rest.rfind("\n", PIECE, 2 * PIECE) + 1 or 2 * PIECE
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest
