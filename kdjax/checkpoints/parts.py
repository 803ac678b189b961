"""Arrays of which each process writes its parts to a store, without a shared disk.

They are zarr arrays, each chunk a file. A process writes the chunks that are on its
devices; the first one also writes everything else. All files together are what one
process alone could have written.
"""

import re
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import type_handlers

from kdjax.core.files import beside
from kdjax.core.mirrors import drop, local_root, pull, put_as
from kdjax.parallel.sharding import barrier

_CHUNK = re.compile(r"(.*/)?\d+(\.\d+)*")

# Each process makes its directories and gives them their names.
EACH = ocp.options.MultiprocessingOptions(primary_host=None)


def handler() -> ocp.PyTreeCheckpointHandler:
    """Returns what writes the chunks that are on this process's devices."""
    # Metadata of each process would be files for all processes to wait for.
    arrays = type_handlers.ArrayHandler(array_metadata_store=None)
    registry = type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry)


def is_mine(name: str) -> bool:
    """Returns whether this process is the one to copy a file that it has written."""
    return jax.process_index() == 0 or _CHUNK.fullmatch(name) is not None


def write(place: epath.Path, params: Any) -> None:
    """Writes arrays to a directory of the first process and, of all, to the store.

    All processes must call it.

    Args:
        place: The directory, which mirrors an address.
        params: The arrays.
    """
    is_first = jax.process_index() == 0
    if is_first:
        drop(place)  # what a killed run has left
    barrier(f"writing {place.name}")
    # Processes on one machine may have one mirror, so that none writes to it here.
    room = beside(local_root() / "buckets" / "parts")
    try:
        written = room / place.name
        written.parent.mkdir(parents=True)
        with ocp.Checkpointer(handler(), multiprocessing_options=EACH) as checkpointer:
            checkpointer.save(written, args=ocp.args.PyTreeSave(params))
        put_as(written, place, is_mine)
        barrier(f"written {place.name}")
        if is_first:
            place.rmtree(missing_ok=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            written.rename(place)
            pull(place)
    finally:
        shutil.rmtree(room, ignore_errors=True)
