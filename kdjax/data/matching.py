"""Which files a pattern means."""

import glob
import itertools
import os
import pathlib
from typing import NamedTuple

from kdjax.core.buckets import Bucket, as_a_mistake, is_remote, join
from kdjax.core.errors import UsageError
from kdjax.core.inputs import fetched
from kdjax.core.logging import say
from kdjax.data.reading import OPENERS

TEXT = (".txt", ".md")
LINES = (".jsonl", ".ndjson")
KINDS = (*TEXT, *LINES, ".json", ".parquet")
_NAMED = 3  # files that a message names


class Found(NamedTuple):
    """A file, what it holds, and how it is packed.

    Attributes:
        name: Its path, with "/" between directories; in a bucket, without the bucket,
            so that a copy of the data is split alike wherever it is.
        kind: One of `KINDS`.
        packing: One of `OPENERS`.
        address: Where it is, if it is in a bucket.
        version: What of it is there.
    """

    name: str
    kind: str
    packing: str
    address: str = ""
    version: str = ""

    @property
    def path(self) -> pathlib.Path:
        """The file's path on this disk; a file in a bucket is copied there."""
        if self.address:
            return pathlib.Path(fetched(self.address, {"": self.version}))
        return pathlib.Path(self.name)

    @property
    def status(self) -> pathlib.Path | str:
        """What tells whether the file has changed, as `Corpus.paths` has it."""
        if self.address:
            return f"{self.address} {self.version}"
        return pathlib.Path(self.name)


def find(pattern: str) -> list[Found]:
    """Returns the files that a glob or a directory means, each once, by name.

    What it matches beside them is named on stderr.

    Raises:
        UsageError: There are none.
    """
    if is_remote(pattern):
        return _find_in_bucket(pattern)
    wanted = _glob(pattern)
    matches = sorted(set(glob.iglob(wanted, recursive=True)))
    found, others = [], []
    for match in matches:
        if (file := _found(match)) is not None:
            found.append(file)
        elif not os.path.isdir(match):
            others.append(match)
        elif "**" not in wanted:
            others.append(f"{match.rstrip('/')}/ (a directory: '**' reads into it)")
    if not found:
        also = f"; it matches {_listed(others)}" if others else ""
        raise UsageError(
            f"config.data.pattern = {pattern!r} matches no {', '.join(KINDS[:-1])} or "
            f"{KINDS[-1]} file, packed ({', '.join(filter(None, OPENERS))}) or not "
            f"(relative to {pathlib.Path.cwd()}){also}"
        )
    if others:
        say(f"data: {pattern!r} also matches what is left out: {_listed(others)}")
    return _once(found)


def check_pattern(pattern: str) -> None:
    """Raises as `find` does, but seeks one file only.

    Raises:
        UsageError: There is none.
    """
    if is_remote(pattern):
        _find_in_bucket(pattern)
    elif not any(map(_found, glob.iglob(_glob(pattern), recursive=True))):
        find(pattern)


def _find_in_bucket(pattern: str) -> list[Found]:
    """Returns what `find` does, of a file, a prefix or a glob in a bucket."""
    scheme, _, rest = pattern.rstrip("/").partition("://")
    parts = rest.split("/")
    fixed = [*itertools.takewhile(lambda part: not glob.has_magic(part), parts)]
    base = f"{scheme}://{'/'.join(fixed)}"
    with as_a_mistake(f"config.data.pattern = {pattern!r}"):
        bucket = Bucket(base)
        is_glob = len(fixed) < len(parts)
        wanted = "/".join(parts[len(fixed) :])
        matches = bucket.glob(wanted) if is_glob else bucket.files()
    found = []
    for name, version in matches.items():
        key = "/".join(filter(None, (*fixed[1:], name)))
        file = _named(key)
        if file is not None and not any(p.startswith(".") for p in name.split("/")):
            file = file._replace(address=join(base, name), version=version)
            found.append(file)
    if not found:
        raise UsageError(
            f"config.data.pattern = {pattern!r} matches no {', '.join(KINDS[:-1])} or "
            f"{KINDS[-1]} file, packed ({', '.join(filter(None, OPENERS))}) or not"
        )
    return sorted(found)


def _glob(pattern: str) -> str:
    """Returns a pattern as a glob: a directory means all that is in it."""
    wanted = os.path.expanduser(pattern)
    if os.path.isdir(wanted):
        return os.path.join(glob.escape(wanted), "**", "*")
    return wanted


def _found(match: str) -> Found | None:
    """Returns a match as a file; None unless its name is that of one.

    A directory of such a name is refused when it is read. What is neither, such as a
    pipe, is left out.
    """
    if os.path.exists(match) and not (os.path.isfile(match) or os.path.isdir(match)):
        return None
    return _named(match)


def _named(match: str) -> Found | None:
    """Returns what a file is by its name; None: none that is read."""
    path = pathlib.PurePath(match)
    suffix, packing = path.suffix.lower(), ""
    if suffix in OPENERS:
        suffix, packing = pathlib.PurePath(path.stem).suffix.lower(), suffix
    if suffix not in KINDS or (packing and suffix == ".parquet"):
        return None
    return Found(path.as_posix(), suffix, packing)


def _once(files: list[Found]) -> list[Found]:
    """Leaves out the further names of a file, which links give it."""
    kept: list[Found] = []
    seen: set[int] = set()
    for file in sorted(files, key=lambda file: (len(file.name), file.name)):
        try:
            status = os.stat(file.name)
        except OSError:
            # A directory with a link to itself gives a file names without end.
            if not os.path.exists(os.path.realpath(file.name)):
                kept.append(file)  # why is said when it is read
            continue
        key = status.st_dev << 64 | status.st_ino
        if key not in seen:
            kept.append(file)
        seen.add(key)
    return sorted(kept)


def _listed(names: list[str]) -> str:
    rest = len(names) - _NAMED
    more = f" and {rest:,} more" if rest > 0 else ""
    return ", ".join(names[:_NAMED]) + more
