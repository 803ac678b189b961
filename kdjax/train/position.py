"""Where a run stands, besides its state: what a checkpoint holds as JSON."""

from typing import Any, NamedTuple


class Position(NamedTuple):
    """Where a run stands, besides its state.

    Attributes:
        source: The position of its data.
        skipped: Steps skipped since the last record of the metrics.
        skipped_in_a_row: Steps skipped since the last one that was taken.
        is_evaluated: False: there was no time for the held-out evaluation that was due.
    """

    source: dict[str, Any]
    skipped: int = 0
    skipped_in_a_row: int = 0
    is_evaluated: bool = True


START = Position({})
