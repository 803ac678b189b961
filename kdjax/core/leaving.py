"""How one of several processes leaves a run: without waiting where it has failed."""

import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping

_FAILED = 1
_TOGETHER = (None, 0, 42)  # done, or stopped and saved: all processes leave so
_LAST = 3.0  # seconds that the first process, which all others need, waits for them

_index: int | None = None


def joined(index: int) -> None:
    """Notes that this is one of several processes of a run, and which."""
    global _index
    _index = index


def is_first(environment: Mapping[str, str]) -> bool:
    """Returns whether this is the first process of its run, before it has joined it."""
    if environment.get("KDJAX_PROCESSES") == "1":
        return True
    names = ("KDJAX_PROCESS", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_ID")
    return next((environment[n] for n in names if environment.get(n)), "0") == "0"


def promptly(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """Returns `main`, except that one of several processes ends at once if it fails.

    Python would wait for the other processes at its exit, and those may be waiting for
    this one in the middle of a step. Without it they notice and end as well.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str]) -> None:
        try:
            main(argv)
        except SystemExit as left:
            if _index is not None and left.code not in _TOGETHER:
                _end(left.code if isinstance(left.code, int) else _FAILED)
            raise
        except BaseException:
            if _index is None:
                raise
            traceback.print_exc()
            _end(_FAILED)

    return wrapped


def _end(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if _index == 0:
        # A mistake that all have found, all should report: the others abort without
        # the first one, which is where they meet.
        time.sleep(_LAST)
    os._exit(status)
