"""Processes of one run that share no disk: what the first one has, the others get."""

import jax
from etils import epath
from jax.experimental import multihost_utils

from kdjax.core.mirrors import mirror_of, publish, pull, push
from kdjax.parallel.sharding import barrier


def are_apart(path: epath.Path) -> bool:
    """Returns whether each of several processes has its own directory of that name.

    So it is where the directory mirrors an address in a store.
    """
    return mirror_of(path) is not None and jax.process_count() > 1


def share(directory: epath.Path) -> None:
    """Gives all processes that are apart what the first one has in a directory."""
    if jax.process_index() == 0:
        push(directory)
    barrier(f"shared {directory.name}")
    if jax.process_index():
        pull(directory)


def follow(directory: epath.Path, seal: str) -> None:
    """Makes a directory what the first process has there, if processes are apart.

    All must call it. What the first process has is in the store afterwards.

    Args:
        directory: The directory.
        seal: The name of the file in it that is written last; where the first process
            does not have it, none has anything.
    """
    if not are_apart(directory):
        return
    is_first, is_there = jax.process_index() == 0, (directory / seal).exists()
    if is_first and is_there:
        publish(directory, seal)
    is_there = bool(multihost_utils.broadcast_one_to_all(is_there))
    if is_first:
        return
    if is_there:
        pull(directory)
    else:
        directory.rmtree(missing_ok=True)
