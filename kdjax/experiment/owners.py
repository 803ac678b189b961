"""Keeps a directory to one run at a time."""

import contextlib
from collections.abc import Iterator

from etils import epath

from kdjax.core.buckets import as_a_mistake
from kdjax.core.errors import UsageError
from kdjax.core.leases import LIFETIME, Lease
from kdjax.core.locks import Lock, NoLocksError
from kdjax.core.logging import say
from kdjax.core.mirroring import Mirror
from kdjax.core.mirrors import mirror_of
from kdjax.experiment.places import LEASE, commit, fetch
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
    if (mirror := mirror_of(workdir)) is not None:
        with _leased(workdir, mirror):
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


@contextlib.contextmanager
def _leased(workdir: epath.Path, mirror: Mirror) -> Iterator[None]:
    """Keeps other runs out of a directory in a bucket, and copies it there at the end.

    Raises:
        UsageError: Another run has it.
        OSError: It cannot be copied, or another run has taken over.
    """

    def waiting(owner: str) -> None:
        say(f"{workdir} was last in use by {owner}: seeing if it is alive ...")

    lease = Lease(mirror.bucket, LEASE)
    with as_a_mistake(f"--workdir={mirror.bucket.address}"):
        is_taken = lease.try_to_take(waiting)
    if not is_taken:
        raise UsageError(
            f"{workdir} is in use by {lease.owner()}; wait for it to end, or choose "
            f"another --workdir (of a killed run this ends in {LIFETIME:.0f} s)"
        )
    mirror.check = lease.check
    try:
        fetch(workdir)  # what its last owner wrote meanwhile
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            commit(workdir)
        raise
    else:
        commit(workdir)
    finally:
        with contextlib.suppress(OSError):
            lease.release()


def _try(lock: Lock, workdir: epath.Path) -> bool:
    """Takes the lock, and returns False if another run has it."""
    try:
        return lock.try_to_take()
    except NoLocksError as error:
        say(f"note: {workdir}: start one run at a time there: {error}")
    except (OSError, UsageError):
        pass  # it cannot be written to, which `claim` says in its own words
    return True
