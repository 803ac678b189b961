"""Large arrays in huge pages, which spares Linux a fault for each 4 KiB of them.

XLA's CPU backend asks for the memory of a step's intermediate arrays anew each time,
and malloc hands such blocks back to the system. Every step then touches all of its
pages for the first time: of a step of some hundred megabytes that is a seventh of the
CPU time.
"""

import os
import pathlib
import sys

_SETTING = "GLIBC_TUNABLES"
HUGE = "glibc.malloc.hugetlb=1"  # malloc asks for huge pages where it may
_SINCE = (2, 35)  # of glibc
_MODE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> None:
    """Starts this process again with glibc's malloc told to ask for huge pages.

    glibc reads that from the environment when a process starts, and from nowhere else.
    Nothing happens if `GLIBC_TUNABLES` is set, as it is the second time, if the system
    gives huge pages to none or to all who do not ask, or if this is another libc.
    """
    if _SETTING in os.environ or not (_is_new_glibc() and _is_on_request()):
        return
    if not sys.executable:  # Python is embedded in another program
        return
    os.environ[_SETTING] = HUGE
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_new_glibc() -> bool:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return name == "glibc" and tuple(map(int, version.split("."))) >= _SINCE
    except (AttributeError, OSError, ValueError):  # another system or libc
        return False


def _is_on_request() -> bool:
    try:
        return "[madvise]" in _MODE.read_text()
    except OSError:
        return False
