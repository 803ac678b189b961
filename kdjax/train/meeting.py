"""Where the processes of a run meet while a checkpoint is written."""

import errno
import time
from typing import Any

# All are ready; orbax's: all have written; all have copied; orbax's: it is committed.
_MEETINGS = 4
_PATIENCE = 600_000  # milliseconds
_HERE = "here"


class Meeting:
    """Lets each process wait for all others, unless one has failed to write.

    A barrier would wait for one that never comes until it times out. Here each says in
    jax's key-value store that it is there, or why it does not come, to the first one,
    which tells all.
    """

    def __init__(self, client: Any, index: int, count: int, name: str) -> None:
        """Waits for nobody yet.

        Args:
            client: That of jax's key-value store; one process alone needs none.
            index: Which process this is.
            count: How many there are.
            name: Of what is written, the same on all processes, and of nothing else.
        """
        self._client, self._index, self._count = client, index, count
        self._name, self._met = name, 0

    def __call__(self, timeout_ms: int = _PATIENCE, content: str = "") -> list[str]:
        """Returns once all processes are here, as a barrier does.

        Args:
            timeout_ms: How long to wait for them.
            content: What this process tells the first one.

        Returns:
            What the others have told, on the first process.

        Raises:
            OSError: One has failed.
            Exception: One has not come in time.
        """
        self._met += 1
        if self._count == 1:
            return []
        deadline = time.monotonic() + timeout_ms / 1000
        told: list[str] = []
        if self._index:
            self._say(self._met, _HERE + content)
            said = self._hear(0, deadline)
        else:
            said = _HERE
            for number in range(1, self._count):
                told.append(self._hear(number, deadline))
                if not told[-1].startswith(_HERE):
                    said = told[-1]
                    break
            self._say(self._met, said)
        if said != _HERE:
            raise OSError(errno.EIO, said)
        return [each.removeprefix(_HERE) for each in told]

    def fail(self, reason: str) -> None:
        """Tells all who wait, or will, why this process does not come."""
        if self._count > 1:
            for number in range(self._met + 1, _MEETINGS + 1):
                self._say(number, f"process {self._index}: {reason}")

    def _say(self, number: int, what: str) -> None:
        self._client.key_value_set(self._place(number, self._index), what)

    def _hear(self, index: int, deadline: float) -> str:
        left = max(1, int(1000 * (deadline - time.monotonic())))
        place = self._place(self._met, index)
        return str(self._client.blocking_key_value_get(place, left))

    def _place(self, number: int, index: int) -> str:
        return f"kdjax/{self._name}/{number}/{index}"
