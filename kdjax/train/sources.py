"""Where the batches of a run come from."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from kdjax.config.schema import TrainConfig
from kdjax.data import held_out_batches, training_batches, training_order
from kdjax.parallel.sharding import Batch, batch_sharding, data_shard, to_devices

StoredRows = Sequence[dict[str, np.ndarray]]


@runtime_checkable
class Source(Protocol):
    """A stream of global batches whose position can be saved and restored."""

    def next(self, step: int, state: Any) -> Batch:
        """Returns the batch of a step, on the devices.

        Args:
            step: Counted from 1.
            state: The train state before it, for sources that use the student.
        """

    def describe(self, step: int) -> list[int]:
        """Returns which rows the batch of a step has, for messages."""

    def position(self) -> dict[str, Any]:
        """Returns the position of the stream, as JSON."""

    def restore(self, position: dict[str, Any]) -> None:
        """Continues from a position."""

    def close(self) -> None:
        """Reads nothing more ahead; called when the run ends, however it does."""


class Rows:
    """Packed rows of a corpus, reshuffled every epoch; see `training_batches`.

    Batches are read ahead of the step, in threads; those not drawn do not count.
    """

    def __init__(
        self, rows: StoredRows, config: TrainConfig, seed: int, mesh: Mesh
    ) -> None:
        self._mesh, self._share = mesh, data_shard(mesh, config.batch_size)
        self._order = training_order(
            len(rows),
            batch_size=config.batch_size,
            seed=seed,
            fraction=config.data_fraction,
        )
        self._batches = training_batches(
            rows,
            batch_size=config.batch_size,
            seed=seed,
            fraction=config.data_fraction,
            mine=self._share.rows,
        )

    def next(self, step: int, state: Any) -> Batch:
        """Returns the next batch."""
        return to_devices(next(self._batches), self._mesh, self._share)

    def describe(self, step: int) -> list[int]:
        """Returns the indices, in the training split, of the rows of a batch."""
        return [int(row) for row in self._order[step - 1]]

    def position(self) -> dict[str, Any]:
        """Returns the number of batches drawn."""
        return dict(self._batches.get_state())

    def restore(self, position: dict[str, Any]) -> None:
        """Continues after the batches drawn before."""
        self._batches.set_state(position)

    def close(self) -> None:
        """Lets the threads that read ahead end."""
        self._batches.close()


def batch_shapes(rows: StoredRows, size: int, mesh: Mesh) -> dict[str, Any]:
    """Returns the shapes and shardings of a batch of `size` rows."""
    return {
        name: jax.ShapeDtypeStruct(
            (size, *value.shape), value.dtype, sharding=batch_sharding(mesh)
        )
        for name, value in rows[0].items()
    }


def device_batches(
    rows: StoredRows, mesh: Mesh, size: int, limit: int | None = None
) -> Iterator[Batch]:
    """Yields held-out rows on the mesh, in batches of `size`, every row once."""
    share = data_shard(mesh, size)
    batches = held_out_batches(rows, batch_size=size, limit=limit, mine=share.rows)
    return (to_devices(batch, mesh, share) for batch in batches)
