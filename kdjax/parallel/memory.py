"""How much memory there is for arrays, asked before any is taken."""

import os

import jax


def total_memory() -> int | None:
    """Returns the bytes of all devices together; None if that is unknown.

    Devices of a CPU have the machine's memory in common. That of each process is
    counted, whether or not it shares the machine.
    """
    if jax.default_backend() == "cpu":
        try:
            pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError):  # not everywhere
            return None
        return pages * size * jax.process_count()
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit and limit * jax.device_count()
