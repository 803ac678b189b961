"""Directories on this disk that mirror an address in an object store.

Programs read and write such a directory; `pull` and `push` say when objects come and
go. For a directory that mirrors nothing they do nothing, so that whoever calls them
needs not ask.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator

from etils import epath

from kdjax.core.buckets import Bucket, is_remote
from kdjax.core.errors import UsageError
from kdjax.core.files import beside, is_left
from kdjax.core.mirroring import Mirror, Wanted

_mirrors: dict[str, Mirror] = {}
_addresses: dict[str, str] = {}  # of all mirrors that there were, for messages


def local_root() -> epath.Path:
    """Returns where this user's caches are on this machine."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return epath.Path(root).expanduser() / "kdjax"


@contextlib.contextmanager
def mirrored(path: epath.PathLike) -> Iterator[epath.Path]:
    """Yields a directory of this process that mirrors an address; it is empty at first.

    The directory goes at the end. A path on a disk is yielded as it is.
    """
    if not is_remote(path):
        yield epath.Path(path).expanduser()
        return
    place = local_root() / "buckets"
    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob("*.tmp"):
        if is_left(left):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
    directory = beside(place / os.path.basename(os.fspath(path).rstrip("/")))
    _register(directory, os.fspath(path))
    try:
        directory.mkdir()
        yield directory
    finally:
        del _mirrors[os.fspath(directory)]
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def written(path: epath.PathLike, *, may_exist: bool = False) -> Iterator[epath.Path]:
    """Yields where to write a file or directory that may belong in a bucket.

    It is copied there at the end, unless something is raised.

    Args:
        path: A path, or an address.
        may_exist: Whether objects that are there may be replaced.

    Raises:
        UsageError: There are objects already.
        OSError: The bucket cannot be written to.
    """
    if not is_remote(path):
        yield epath.Path(path).expanduser()
        return
    there = os.fspath(path).rstrip("/")
    if not may_exist and Bucket(there).exists():
        raise UsageError(f"{there} exists already; choose another name")
    parent, _, name = there.rpartition("/")
    with mirrored(parent) as directory:
        yield directory / name
        push(directory)


def kept(path: epath.PathLike) -> epath.Path:
    """Returns the directory on this disk that mirrors an address, now and later.

    A path on a disk is returned as it is.
    """
    if not is_remote(path):
        return epath.Path(path).expanduser()
    key = hashlib.sha256(os.fspath(path).rstrip("/").encode()).hexdigest()[:16]
    directory = local_root() / "buckets" / key
    if os.fspath(directory) not in _mirrors:
        _register(directory, os.fspath(path))
    return directory


def pull(path: epath.Path, wanted: Wanted = lambda name: True) -> None:
    """Makes what is below a path what the store has there.

    Args:
        path: A directory that mirrors an address, or what is below one.
        wanted: Which names below the mirror are meant.
    """
    if (found := _mirror_of(path)) is not None:
        mirror, below = found
        mirror.pull(below, wanted)


def push(path: epath.Path, wanted: Wanted = lambda name: True) -> None:
    """Makes what the store has below a path what is there.

    What vouches for other files, as a manifest does, is copied last.

    Args:
        path: A directory that mirrors an address, or what is below one.
        wanted: Which names below the mirror are meant.

    Raises:
        OSError: The store does not take it.
    """
    if (found := _mirror_of(path)) is not None:
        mirror, below = found
        mirror.push(below, wanted)


def publish(path: epath.Path, seal: str) -> None:
    """Pushes what is below a path unless the store has all of it already.

    Args:
        path: The directory.
        seal: The name of the file in it that is written last.
    """
    if (found := _mirror_of(path)) is not None:
        mirror, below = found
        if not mirror.has(below, seal):
            mirror.push(below, lambda name: True)


def put_as(
    path: epath.Path, name: epath.Path, wanted: Wanted = lambda name: True
) -> None:
    """Pushes the files of a directory under the name that it will have.

    Args:
        path: The directory.
        name: The path that it will have.
        wanted: Which names below the directory are meant.
    """
    if (found := _mirror_of(name)) is not None:
        mirror, below = found
        mirror.put_as(path, below, wanted)


def check(path: epath.Path) -> None:
    """Raises if this process may no longer push what is below a path.

    Raises:
        OSError: Another run has taken over.
    """
    if (found := _mirror_of(path)) is not None:
        found[0].check()


def drop(path: epath.Path) -> None:
    """Removes from the store all that it has below a path."""
    if (found := _mirror_of(path)) is not None:
        mirror, below = found
        mirror.drop(below)


def address(path: epath.Path) -> str:
    """Returns where a path is for others: in a store, if it mirrors one."""
    return spoken(str(path))


def mirror_of(path: epath.Path) -> Mirror | None:
    """Returns the mirror that a path is in; None: it is in none."""
    found = _mirror_of(path)
    return found[0] if found else None


def spoken(text: str) -> str:
    """Returns a message with addresses in place of the directories that mirror them."""
    for directory, there in _addresses.items():
        text = text.replace(directory, there)
    return text


def announce(directory: epath.Path, there: str) -> None:
    """Lets messages speak of an address in place of a copy on this disk."""
    _addresses[os.fspath(directory)] = there


def _register(directory: epath.Path, there: str) -> None:
    mirror = Mirror(directory, there)
    _mirrors[os.fspath(directory)] = mirror
    announce(directory, mirror.bucket.address)


def _mirror_of(path: epath.Path) -> tuple[Mirror, str] | None:
    for mirror in _mirrors.values():
        if path == mirror.directory or mirror.directory in path.parents:
            below = path.relative_to(mirror.directory).as_posix()
            return mirror, "" if below == "." else below
    return None
