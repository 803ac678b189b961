"""Keeps a directory to one run at a time."""

import contextlib
from collections.abc import Iterator

from etils import epath

from kdjax.core.errors import UsageError
from kdjax.core.locks import Lock, NoLocksError
from kdjax.core.logging import say
from kdjax.experiment.workdir import LOCK, is_open


@contextlib.contextmanager
def owned(workdir: epath.Path, *, is_first: bool, waits: bool) -> Iterator[None]:
    """Keeps other runs out of the directory.

    Args:
        workdir: The experiment's directory.
        is_first: Whether this is the first process of the run, which takes the lock.
        waits: Whether to wait for a run that has it, as points of a sweep do.

    Raises:
        UsageError: Another run has it.
    """
    if not is_first or not is_open(workdir):
        yield
        return
    lock = Lock(workdir / LOCK)
    with contextlib.ExitStack() as stack:
        if waits:
            stack.enter_context(lock.held(str(workdir), is_needed=False))
        elif not _try(lock, workdir):
            raise UsageError(
                f"{workdir} is in use by {lock.owner()}; wait for it to end, or choose "
                "another --workdir"
            )
        stack.callback(lock.release)
        yield


def _try(lock: Lock, workdir: epath.Path) -> bool:
    """Takes the lock, and returns False if another run has it."""
    try:
        return lock.try_to_take()
    except NoLocksError as error:
        say(f"note: {workdir}: start one run at a time there: {error}")
    except (OSError, UsageError):
        pass  # it cannot be written to, which `claim` says in its own words
    return True
