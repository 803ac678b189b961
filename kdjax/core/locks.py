"""Locks that several processes hold in turn, and that end with their owner."""

import contextlib
import errno
import os
import platform
from collections.abc import Callable, Iterator

import filelock
from etils import epath

from kdjax.core.errors import UsageError
from kdjax.core.logging import say

# What a file system without flock answers; NFS may lack its lock daemon.
_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


class NoLocksError(UsageError):
    """The file system has no locks."""


class Lock:
    """A lock on a file, by `flock`: the system releases it when its owner dies.

    The file itself stays, and means nothing.
    """

    def __init__(self, path: epath.Path) -> None:
        """Neither makes the file nor takes the lock.

        Args:
            path: The lock's file.
        """
        self._path = path
        # A marker file in place of flock would outlive its owner.
        self._lock = filelock.FileLock(os.fspath(path), fallback_to_soft=False)

    def try_to_take(self) -> bool:
        """Takes the lock unless another process holds it, and returns whether it did.

        Raises:
            NoLocksError: The file system has no locks.
            UsageError: It cannot be written to.
        """
        return self._take(0.0)

    def release(self) -> None:
        """Releases the lock."""
        self._lock.release()

    @contextlib.contextmanager
    def held(self, what: str, *, is_needed: bool = True) -> Iterator[None]:
        """Waits for the lock and holds it, saying whom it waits for.

        Args:
            what: What the lock is on, for the message.
            is_needed: False: where no lock can be had, a note says so.

        Raises:
            UsageError: It is needed, and the file system has no locks or cannot be
                written to.
        """
        try:
            is_free = self._take(0.0)
        except UsageError as error:
            if is_needed:
                raise
            say(f"note: {what}: no lock, so start one experiment at a time: {error}")
            yield
            return
        if not is_free:
            say(f"{what}: waiting for {self.owner()}, which is at it")
            self._take(-1.0)
        try:
            yield
        finally:
            self.release()

    def make_once(
        self, what: str, is_made: Callable[[], bool], make: Callable[[], None]
    ) -> None:
        """Makes something unless it is there, or another process has just made it.

        Args:
            what: What is made, for messages.
            is_made: Whether it is there.
            make: Makes it.
        """
        if is_made():
            return
        with self.held(what, is_needed=False):
            if not is_made():
                make()

    def owner(self) -> str:
        """Returns who took the lock last."""
        try:
            return self._note.read_text("utf-8").strip() or "another process"
        except OSError:
            return "another process"

    @property
    def _note(self) -> epath.Path:
        return self._path.with_suffix(".owner")

    def _take(self, seconds: float) -> bool:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=seconds)
        except filelock.Timeout:
            return False
        except OSError as error:
            if error.errno in _READ_ONLY:
                raise UsageError(
                    f"cannot write to {self._path.parent} ({error.strerror})"
                ) from None
            if error.errno not in _UNSUPPORTED:
                raise
            raise NoLocksError(
                f"the file system of {self._path.parent} has no locks (flock: "
                f"{error.strerror}); choose a directory on another one"
            ) from None
        with contextlib.suppress(OSError):  # it only serves a message
            self._note.write_text(f"process {os.getpid()} on {platform.node()}\n")
        return True
