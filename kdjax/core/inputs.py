"""Files and directories to read, copied from a bucket to this disk if need be."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping

from etils import epath

from kdjax.core.buckets import Bucket, as_a_mistake, in_parallel, is_remote, join
from kdjax.core.errors import UsageError
from kdjax.core.files import beside
from kdjax.core.mirrors import announce, local_root

# Of an experiment in progress; no reader of models needs them.
_LEFT_OUT = ("checkpoints", "tensorboard")
_TOKENIZER = (".json", ".txt", ".model", ".jinja")  # what may lie beside a tokenizer


def exists(path: epath.PathLike) -> bool:
    """Returns whether there is a file or a directory.

    Raises:
        UsageError: It is an address, and the store cannot be asked.
    """
    if not is_remote(path):
        return epath.Path(path).expanduser().exists()
    with as_a_mistake(str(path)):
        return Bucket(str(path)).exists()


def fetched(
    path: epath.PathLike, versions: Mapping[str, str] | None = None
) -> epath.Path:
    """Returns a path on this disk of a file or directory that may be in a bucket.

    The copy stays in this user's cache, and is made again when an object has changed.

    Args:
        path: A path or an address.
        versions: What `Bucket.files` has returned of it; None: it is asked.

    Raises:
        UsageError: There is nothing at the address, or the store cannot be read.
    """
    if not is_remote(path):
        return epath.Path(path).expanduser()
    return _fetched(str(path).rstrip("/"), versions, _is_read)


def fetched_tokenizer(path: epath.PathLike) -> epath.Path:
    """Returns the path on this disk of a tokenizer, with what may lie beside it."""
    if not is_remote(path):
        return epath.Path(path)
    there = str(path).rstrip("/")
    parent, _, name = there.rpartition("/")
    if name.endswith(_TOKENIZER):
        return _fetched(parent, None, _is_beside) / name
    with as_a_mistake(there):
        is_file = "" in Bucket(there).files()  # such as all of a model
    if is_file:
        return fetched(there)
    return _fetched(there, None, _is_beside)


def _fetched(
    there: str, versions: Mapping[str, str] | None, wanted: Callable[[str], bool]
) -> epath.Path:
    with as_a_mistake(there):
        bucket = Bucket(there)
        found = bucket.files() if versions is None else versions
        found = {name: each for name, each in found.items() if wanted(name)}
        if not found:
            raise UsageError(f"{there} does not exist")
        identity = json.dumps([there, sorted(found.items())])
        key = hashlib.sha256(identity.encode()).hexdigest()[:16]
        directory = local_root() / "buckets" / f"input-{key}"
        copy = directory / os.path.basename(there)
        announce(copy, there)
        if not directory.exists():
            _copy(bucket, found, directory, copy.name)
    return copy


def _copy(
    bucket: Bucket, names: Mapping[str, str], directory: epath.Path, name: str
) -> None:
    """Copies objects to a directory, which appears when it is complete."""
    temporary = beside(directory)

    def get(each: str) -> None:
        path = temporary / join(name, each)
        path.parent.mkdir(parents=True, exist_ok=True)
        bucket.get(each, os.fspath(path))

    try:
        in_parallel(get, names)
        temporary.rename(directory)
    except OSError:
        if not directory.exists():  # another process has made it meanwhile
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_read(name: str) -> bool:
    return not set(_LEFT_OUT) & set(name.split("/"))


def _is_beside(name: str) -> bool:
    return "/" not in name and name.endswith(_TOKENIZER)
