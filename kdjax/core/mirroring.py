"""A directory on this disk that mirrors an address in an object store."""

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from etils import epath

from kdjax.core.buckets import Bucket, in_parallel, join
from kdjax.core.files import beside

# How the names end of what means something on one machine only.
_LOCAL = (".tmp", ".lock", ".owner", ".lease")
_OURS = ""  # the version of an object that was written from here
# What vouches for other files is among these, and is written after them.
_SEALS = (".json", ".html")

Wanted = Callable[[str], bool]


class Mirror:
    """A directory and the address that it mirrors."""

    def __init__(self, directory: epath.Path, address: str) -> None:
        """Copies nothing yet."""
        self.directory, self.bucket = directory, Bucket(address)
        self._same: dict[str, tuple[str, Any]] = {}  # versions there and here
        self._turn = threading.RLock()
        # What is asked before anything is committed.
        self.check: Callable[[], None] = lambda: None

    def pull(self, below: str, wanted: Wanted) -> None:
        """Makes the files below a name what the objects are, if there are any."""
        with self._turn:
            found = Bucket(join(self.bucket.address, below)).files()
            there = {_joined(below, name): each for name, each in found.items()}
            there = {n: each for n, each in there.items() if n and wanted(n)}
            there = {n: v for n, v in there.items() if not n.endswith(_LOCAL)}
            if not there:
                return
            for name in self._here(below, wanted).keys() - there.keys():
                (self.directory / name).unlink(missing_ok=True)
            in_parallel(
                lambda name: self._get(name, there[name]),
                [n for n, each in there.items() if self._is_other(n, each)],
            )

    def push(self, below: str, wanted: Wanted) -> None:
        """Makes the objects below a name what the files are; seals come last."""
        with self._turn:
            self.check()
            here = self._here(below, wanted)
            changed = [n for n, each in here.items() if self._mark(n) != each]
            self._put_all({name: self.directory / name for name in changed})
            gone = [n for n in self._same if _is_below(n, below) and n not in here]
            self.remove([name for name in gone if wanted(name)])

    def put(self, name: str, path: epath.Path | None = None) -> None:
        """Copies one file to its object, or another in its place."""
        path = path or self.directory / name
        mark = _mark(path)
        self.bucket.put(os.fspath(path), name)
        self._same[name] = _OURS, mark

    def remove(self, names: Collection[str]) -> None:
        """Removes objects, seals first."""
        self.bucket.remove(filter(_is_seal, names))
        self.bucket.remove([name for name in names if not _is_seal(name)])
        for name in names:
            self._same.pop(name, None)

    def put_as(self, directory: epath.Path, below: str, wanted: Wanted) -> None:
        """Copies a directory's files under another name; seals come last."""
        files = filter(wanted, _files(directory))
        names = {_joined(below, name): directory / name for name in files}
        self.check()
        self._put_all(names)

    def _put_all(self, paths: Mapping[str, epath.Path]) -> None:
        """Copies files: seals last, in the order in which they were written."""
        others = [name for name in paths if not _is_seal(name)]
        in_parallel(lambda name: self.put(name, paths[name]), others)
        self.check()
        seals = filter(_is_seal, paths)
        for name in sorted(seals, key=lambda name: os.stat(paths[name]).st_mtime_ns):
            self.put(name, paths[name])

    def drop(self, below: str) -> None:
        """Removes all objects below a name."""
        found = Bucket(join(self.bucket.address, below)).files()
        self.remove([_joined(below, n) for n in found if not n.endswith(_LOCAL)])

    def has(self, below: str, name: str) -> bool:
        """Returns whether there is an object."""
        return self.bucket.read(_joined(below, name)) is not None

    def _get(self, name: str, version: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = beside(path)
        self.bucket.get(name, os.fspath(temporary))
        temporary.replace(path)
        self._same[name] = version, _mark(path)

    def _is_other(self, name: str, version: str) -> bool:
        """Returns whether an object is not the file that is here."""
        before, mark = self._same.get(name, (None, None))
        return before not in (_OURS, version) or mark != _mark(self.directory / name)

    def _mark(self, name: str) -> Any:
        return self._same.get(name, (_OURS, None))[1]

    def _here(self, below: str, wanted: Wanted) -> dict[str, Any]:
        """Returns the marks of the files below a name, by their own."""
        found = {}
        if (self.directory / below).is_file():
            return {below: _mark(self.directory / below)}
        for file in _files(self.directory / below):
            name = _joined(below, file)
            if wanted(name):
                found[name] = _mark(self.directory / name)
        return found


def _files(directory: epath.Path) -> Iterator[str]:
    """Yields the names of the files in a directory, but for those of this machine."""
    for root, directories, files in os.walk(directory):
        directories[:] = [name for name in directories if not name.endswith(_LOCAL)]
        for name in files:
            if not name.endswith(_LOCAL):
                path = os.path.relpath(os.path.join(root, name), directory)
                yield path.replace(os.sep, "/")


def _mark(path: epath.Path) -> Any:
    """Returns what changes when a file is written; None: there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _joined(below: str, name: str) -> str:
    return f"{below}/{name}".strip("/")


def _is_below(name: str, below: str) -> bool:
    return not below or name == below or name.startswith(f"{below}/")


def _is_seal(name: str) -> bool:
    return name.endswith(_SEALS)
