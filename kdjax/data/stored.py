"""Rows on disk: an array_record file for each split, and a record for each row."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from kdjax.core.errors import UsageError
from kdjax.data.packing import Row

_SUFFIX = ".array_record"
_NAMES = ("tokens", "segments")  # the parts of a record, one after the other
_TOGETHER = 256  # rows that are written at a time, for speed


def file_of(directory: epath.Path, split: str) -> epath.Path:
    """Returns the file of a split's rows."""
    return directory / f"{split}{_SUFFIX}"


def write_rows(path: epath.Path, rows: Iterator[Row], prefix: int) -> dict[str, int]:
    """Writes rows of one length to a new file, and returns what they hold.

    Numbers have two bytes where that suffices for all of a row, and four elsewhere.

    Args:
        path: The file.
        rows: Token ids and segment ids.
        prefix: How many ids before a text are not counted as its own.

    Returns:
        The number of "rows", that of the "tokens" of their texts, and the "largest_id".
    """
    found = {"rows": 0, "tokens": 0, "largest_id": 0}
    writer = ArrayRecordWriter(str(path), "group_size:1")
    while some := [*islice(rows, _TOGETHER)]:
        tokens, segments = (np.stack([row[name] for row in some]) for name in _NAMES)
        found["rows"] += len(some)
        pieces = int(segments.max(axis=1).sum())
        found["tokens"] += int((segments > 0).sum()) - prefix * pieces
        found["largest_id"] = max(found["largest_id"], int(tokens.max()))
        for row in np.stack([tokens, segments], axis=1):
            writer.write(row.astype("<u2" if row.max() < 1 << 16 else "<i4").tobytes())
    writer.close()
    return found


class StoredRows(Sequence[Row]):
    """Random access to the rows of one file."""

    def __init__(self, path: epath.Path, length: int) -> None:
        """Opens the file of rows of a length.

        Raises:
            UsageError: It is damaged, or not there.
        """
        self._path, self._length = path, length
        try:
            self._records = ArrayRecordDataSource(str(path))
        except Exception as error:
            raise self._damaged(error) from None

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._records)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        """Returns a row: int32 [T] for each of its parts.

        Raises:
            IndexError: There is no such row.
            UsageError: The file is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            record = self._records[index]
            kind = "<i4" if len(record) == 8 * self._length else "<u2"
            parts = np.frombuffer(record, kind).reshape(2, self._length)
        except Exception as error:
            raise self._damaged(error) from None
        return dict(zip(_NAMES, parts.astype(np.int32), strict=True))

    def _damaged(self, error: Exception) -> UsageError:
        reason = " ".join(str(error).split())[:200]
        return UsageError(
            f"the rows in {self._path} are damaged ({reason}); delete "
            f"{self._path.parent} to have them made again"
        )
