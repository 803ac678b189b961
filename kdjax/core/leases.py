"""Leases in object stores, which have no locks: they end unless they are renewed."""

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from kdjax.core.buckets import Bucket

LIFETIME = 60.0  # seconds without a renewal after which an owner counts as dead
_RENEWED = 15.0  # seconds between renewals
_LONG_AGO = 600.0  # seconds; however clocks differ, such an owner is dead
_SETTLED = 1.0  # seconds that who takes a dead owner's place waits for another one


class LostError(OSError):
    """Another process has the lease, because this one was taken for dead."""


class Lease:
    """A lease on an object.

    Taking a free one is exclusive where the store can create an object only if there
    is none, as S3, GCS and Azure do. Taking a dead owner's is not: of two that do it at
    once the last one has it, which the other notices when it next asks.
    """

    def __init__(self, bucket: Bucket, name: str) -> None:
        """Takes nothing yet."""
        self._bucket, self._name, self._id = bucket, name, uuid.uuid4().hex
        self._ended = threading.Event()
        self._renewer: threading.Thread | None = None

    def try_to_take(self, waiting: Callable[[str], None]) -> bool:
        """Takes the lease unless its owner is alive, and returns whether it did.

        Whether an owner on another machine is alive shows within `LIFETIME`.

        Args:
            waiting: Called with the owner's name before a wait.
        """
        if not self._bucket.write(self._name, self._content(), is_new=True):
            found = self._read()
            if found and not _is_dead(found):
                waiting(_owner(found))
                if not self._ends(found):
                    return False
            self._bucket.write(self._name, self._content())
            time.sleep(_SETTLED)
            if not self.is_mine():
                return False
        self._renewer = threading.Thread(target=self._renew, daemon=True)
        self._renewer.start()
        return True

    def owner(self) -> str:
        """Returns who has the lease."""
        return _owner(self._read())

    def is_mine(self) -> bool:
        """Returns whether this process has it still, as the store says."""
        return bool(self._read().get("id") == self._id)

    def check(self) -> None:
        """Raises unless this process has it still.

        Raises:
            LostError: Another process has it.
        """
        if not self.is_mine():
            reason = f"another run has taken over ({self.owner()}): this one was silent"
            raise LostError(5, reason, self._bucket.address)

    def release(self) -> None:
        """Ends it, if it is this process's."""
        if self._renewer is not None:
            self._ended.set()
            self._renewer.join()
            if self.is_mine():
                self._bucket.remove([self._name])

    def _ends(self, found: dict[str, Any]) -> bool:
        """Waits for a renewal, and returns whether none came."""
        until = time.monotonic() + LIFETIME
        while time.monotonic() < until:
            time.sleep(min(2.0, LIFETIME / 10))
            now = self._read()
            if not now:
                return True
            if now != found:
                return False
        return True

    def _renew(self) -> None:
        while not self._ended.wait(_RENEWED):
            try:
                if not self.is_mine():
                    return  # `check` says so
                self._bucket.write(self._name, self._content())
            except OSError:
                pass  # the next attempt may succeed

    def _content(self) -> bytes:
        content = {
            "id": self._id,
            "host": platform.node(),
            "process": os.getpid(),
            "renewed": time.time(),
        }
        return json.dumps(content).encode()

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._bucket.read(self._name) or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def _owner(found: dict[str, Any]) -> str:
    if not found:
        return "another process"
    return f"process {found.get('process')} on {found.get('host')}"


def _is_dead(found: dict[str, Any]) -> bool:
    """Returns whether an owner is known to be dead at once."""
    renewed, process = found.get("renewed"), found.get("process")
    if isinstance(renewed, float) and renewed < time.time() - _LONG_AGO:
        return True
    if found.get("host") != platform.node() or not isinstance(process, int):
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
