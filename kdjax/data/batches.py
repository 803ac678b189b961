"""Rows to batches, in an order that is a pure function of seed and position.

The global batch of step n is the same for every number of processes: rows are batched
first and each process takes its rows of every batch. The resume state is therefore one
integer, the same on every process.
"""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from kdjax.data.packing import Row

# Enough to stay ahead of a step without competing with it for two cores.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


def training_batches(
    rows: Sequence[Row],
    *,
    batch_size: int,
    seed: int,
    fraction: float = 1.0,
    mine: Sequence[int] | None = None,
) -> grain.DatasetIterator:
    """Returns an endless, shuffled stream of one process's share of each batch.

    Every epoch has its own order. The iterator's `get_state` and `set_state` save and
    restore the position.

    Args:
        rows: The training split.
        batch_size: Rows of the global batch.
        seed: Determines the order and which rows `fraction` keeps.
        fraction: The share of rows to use, chosen at random once for all epochs.
        mine: Which rows of each batch this process needs; None: all.
    """
    if fraction < 1:
        dataset = _numbers(len(rows), seed, fraction).map(lambda number: rows[number])
    else:
        dataset = grain.MapDataset.source(rows)
    dataset = dataset.seed(seed).shuffle().repeat()
    if mine is None:
        mine = range(batch_size)
    if len(mine) < batch_size:
        dataset = _picked(dataset, batch_size, mine)
    dataset = dataset.batch(len(mine), drop_remainder=True)
    return iter(dataset.to_iter_dataset(_READ))


def _picked(
    rows: grain.MapDataset, batch_size: int, mine: Sequence[int]
) -> grain.MapDataset:
    """Returns, of an endless stream, some rows of each batch; others are not read."""

    def pick(number: int) -> Row:
        batch, place = divmod(number, len(mine))
        picked: Row = rows[batch * batch_size + mine[place]]
        return picked

    return grain.MapDataset.range(len(rows) // batch_size * len(mine)).map(pick)


def training_order(
    count: int, *, batch_size: int, seed: int, fraction: float = 1.0
) -> grain.MapDataset:
    """Returns which rows the batches of `training_batches` have: element n is batch n.

    Args:
        count: The number of rows of the training split.
        batch_size: Rows of the global batch.
        seed: As there.
        fraction: As there.
    """
    dataset = _numbers(count, seed, fraction).seed(seed).shuffle().repeat()
    return dataset.batch(batch_size, drop_remainder=True)


def _numbers(count: int, seed: int, fraction: float) -> grain.MapDataset:
    """Returns the numbers of the rows that `fraction` keeps."""
    if fraction == 1:
        return grain.MapDataset.range(count)
    # Chosen here, not by slicing a shuffled dataset: grain would reshuffle under the
    # slice in every epoch, and sooner or later every row would appear.
    order = grain.MapDataset.range(count).shuffle(seed=seed)
    kept = grain.MapDataset.range(max(1, round(fraction * count)))
    return kept.map(lambda position: order[position])


def held_out_batches(
    rows: Sequence[Row],
    *,
    batch_size: int,
    limit: int | None = None,
    mine: Sequence[int] | None = None,
) -> Iterator[Row]:
    """Yields one process's share of each batch, in order, every row once.

    The last batch is padded, so that all have one shape and no row is dropped.
    With a limit, the rows are spread evenly over the split. `mine` is as for
    `training_batches`.
    """
    chosen: Sequence[int] = range(len(rows))
    if limit and limit < len(rows):
        chosen = [i * len(rows) // limit for i in range(limit)]
    places = range(batch_size) if mine is None else mine
    padding = {k: np.zeros_like(v) for k, v in rows[0].items()}
    for start in range(0, len(chosen), batch_size):
        numbers = [start + place for place in places]
        batch = [rows[chosen[i]] if i < len(chosen) else padding for i in numbers]
        yield {k: np.stack([row[k] for row in batch]) for k in batch[0]}
