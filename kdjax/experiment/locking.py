"""Locks between experiments, for what several of them would make at the same time."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from kdjax.core.locks import Lock
from kdjax.parallel.sharding import barrier


def process_lock(shared: epath.Path, workdir: epath.Path) -> epath.Path:
    """Returns the lock that the process of one of several experiments holds."""
    return shared / "locks" / f"{workdir.name}.lock"


def lock_on(directory: epath.Path, what: str, identity: Any) -> epath.Path:
    """Returns the lock in a directory on something that JSON identifies."""
    content = json.dumps(identity, sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    return directory / "locks" / f"{what}-{key}.lock"


@contextlib.contextmanager
def one_at_a_time(
    path: epath.Path, what: str, *, is_made: bool = False, is_needed: bool = True
) -> Iterator[None]:
    """Holds a lock while other experiments wait; the first process takes it.

    Args:
        path: The lock's file.
        what: What is made, for a message to those that wait.
        is_made: Whether it is there already, so that nobody needs to wait.
        is_needed: False: where no lock can be had, a note says so.
    """
    with contextlib.ExitStack() as stack:
        if not is_made and jax.process_index() == 0:
            stack.enter_context(Lock(path).held(what, is_needed=is_needed))
        barrier(f"locked {what}")
        yield
        barrier(f"made {what}")
