"""A file that grows by whole records, also where the disk is full for a while."""

import hashlib
import os
from typing import NamedTuple

from etils import epath


class Beginning(NamedTuple):
    """What a file begins with, however it grows: a size in bytes, and its hash."""

    size: int
    sha256: str

    def is_of(self, path: epath.Path) -> bool:
        """Returns whether the file begins so."""
        with path.open("rb") as file:
            return hashlib.sha256(file.read(self.size)).hexdigest() == self.sha256


class AppendedFile:
    """A file to which records are added; what cannot be written waits."""

    def __init__(self, path: epath.Path, content: bytes = b"") -> None:
        """Opens nothing yet.

        Args:
            path: The file.
            content: What it holds.
        """
        self._path, self._size, self._waiting = path, len(content), b""
        self._is_torn = False  # whether a failed attempt may have left half a record
        self._hash = hashlib.sha256(content)

    def add(self, content: bytes) -> None:
        """Adds a record, for `write` to write."""
        self._waiting += content

    def write(self, *, is_durable: bool = False) -> Beginning:
        """Writes all that waits, and returns what the file is now.

        Args:
            is_durable: Whether to return only once a loss of power would spare it.

        Raises:
            OSError: It cannot be written; it still waits.
        """
        if self._is_torn and self._path.exists():
            os.truncate(self._path, self._size)
        self._is_torn = True
        with self._path.open("ab") as file:
            file.write(self._waiting)
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
        self._is_torn = False
        self._size += len(self._waiting)
        self._hash.update(self._waiting)
        self._waiting = b""
        return Beginning(self._size, self._hash.hexdigest())
