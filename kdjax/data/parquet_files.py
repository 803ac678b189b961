"""Texts out of the columns of Parquet files."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdjax.data.reading import Unreadable

_ROWS = 256  # read at once
_PAGES = 1 << 20  # bytes of a file that are read ahead


def parquet_texts(
    path: pathlib.Path, field: str, wanted: Callable[[int], bool]
) -> Iterator[tuple[int, Iterator[str]]]:
    """Yields the rows' numbers, from 1, and a column's texts.

    Each text is an iterator over it alone, which raises `Unreadable` if it is missing.

    Args:
        path: The file.
        field: The column, or the names that lead to it with dots between.
        wanted: Whether a row, by its number, shall be read.

    Raises:
        Unreadable: It is not such a file, or has no such column of text.
    """
    try:
        with pq.ParquetFile(path, buffer_size=_PAGES, pre_buffer=False) as file:
            steps = _steps(file.schema_arrow, field)
            number = 0
            for batch in file.iter_batches(_ROWS, columns=[field]):
                column = pa.StructArray.from_arrays(batch.columns, batch.schema.names)
                for step in steps:
                    column = pc.struct_field(column, step)
                for value in column:
                    number += 1
                    if wanted(number):
                        yield number, _text(value, field)
    except (OSError, pa.ArrowException) as error:
        first = str(error).partition("\n")[0]
        raise Unreadable(f"cannot be read as Parquet ({first})") from None


def _text(value: Any, field: str) -> Iterator[str]:
    if not value.is_valid:
        raise Unreadable(f"has null in {field!r}, not text")
    try:
        yield value.as_py()
    except UnicodeDecodeError:
        raise Unreadable(f"has bytes in {field!r} that are not UTF-8") from None


def _steps(schema: pa.Schema, field: str) -> list[str]:
    """Returns the names that lead to a column of text."""
    kind: pa.DataType = pa.struct(list(schema))
    steps: list[str] = []
    rest = field
    while rest:
        if not pa.types.is_struct(kind):
            break
        names = [member.name for member in kind]
        fitting = [n for n in names if rest == n or rest.startswith(f"{n}.")]
        if not fitting:
            break
        step = max(fitting, key=len)
        steps.append(step)
        kind = kind.field(step).type
        rest = rest[len(step) + 1 :]
    texts = [repr(m.name) for m in schema if _is_text(m.type)]
    such = f", such as to {', '.join(texts[:5])}" if texts else ""
    advice = f"; set config.data.text_field{such}"
    if rest:
        raise Unreadable(f"has no column {field!r}{advice}")
    if not _is_text(kind):
        raise Unreadable(f"has {kind} in the column {field!r}, not text{advice}")
    return steps


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or (pa.types.is_dictionary(kind) and _is_text(kind.value_type))
    )
