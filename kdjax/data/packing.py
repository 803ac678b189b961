"""Texts packed into rows of one length."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from kdjax.text.streams import Ids

Row = dict[str, np.ndarray]


def pack(
    texts: Iterable[Ids], length: int, prefix: Sequence[int] = ()
) -> Iterator[Row]:
    """Yields rows of `length` ids taken from the concatenated texts.

    Segments number the texts within a row from 1. A text that does not fit continues
    in the next row. What a row holds of a text begins with the prefix, because a model
    that has always seen `<bos>` before a text may do badly without it. Padding, in the
    last row or where no id would fit after a prefix, has segment 0.

    Args:
        texts: The ids, those of a long text in several parts; see `encode_stream`.
        length: How many ids a row has.
        prefix: What a text begins with, and what is left of it in a new row.

    Example:
        >>> texts = [Ids(np.array([7, 7])), Ids(np.array([7]), begins=False)]
        >>> rows = list(pack([*texts, Ids(np.array([8, 8]))], 4))
        >>> [row["tokens"].tolist() for row in rows]
        [[7, 7, 7, 8], [8, 0, 0, 0]]
        >>> [row["segments"].tolist() for row in rows]
        [[1, 1, 1, 2], [1, 0, 0, 0]]
        >>> rows = pack([*texts, Ids(np.array([8, 8]))], 5, prefix=[1])
        >>> [row["tokens"].tolist() for row in rows]
        [[1, 7, 7, 7, 0], [1, 8, 8, 0, 0]]
    """
    row, used, segment = _empty(length), 0, 0
    lead: Sequence[int] = prefix  # what comes before the next id
    for ids, begins in texts:
        if begins:
            segment, lead = segment + 1, prefix
        at = 0
        while at < len(ids):
            if length - used <= len(lead):
                yield row
                row, used, segment, lead = _empty(length), 0, 1, prefix
            begin = used + len(lead)
            end = min(length, begin + len(ids) - at)
            row["tokens"][used:begin] = lead
            row["tokens"][begin:end] = ids[at : at + end - begin]
            row["segments"][used:end] = segment
            at, used, lead = at + end - begin, end, ()
    if used:
        yield row


def _empty(length: int) -> Row:
    return {name: np.zeros(length, np.int32) for name in ("tokens", "segments")}
