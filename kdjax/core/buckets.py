"""Addresses in object stores, such as s3://bucket/run: what is there, in and out."""

import contextlib
import errno
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import fsspec

from kdjax.core.errors import UsageError

# What fsspec needs for a store; each is an extra of kdjax as well.
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
_EXTRAS = {"gcsfs": "gcs", "s3fs": "s3", "adlfs": "azure"}
_WEB = ("http", "https", "file")
_AT_ONCE = 8  # transfers
_T = TypeVar("_T")


def is_remote(path: object) -> bool:
    """Returns whether a path is an address in a store, and not on a disk.

    Example:
        >>> is_remote("s3://bucket/run"), is_remote("runs/a"), is_remote("http://a/b")
        (True, False, False)
    """
    scheme, found, _ = str(path).partition("://")
    return bool(found) and scheme.isalnum() and scheme not in _WEB


def join(address: str, name: str) -> str:
    """Returns the address of something below another address."""
    return f"{address.rstrip('/')}/{name}".rstrip("/")


class Bucket:
    """The objects below an address, by their names there.

    An object is replaced as a whole: readers see the old content or the new one.
    """

    def __init__(self, address: str) -> None:
        """Asks nothing of the store yet.

        Raises:
            UsageError: It is an unknown kind of store, or a package is missing.
        """
        self.address = address.rstrip("/")
        self._fs, self._root = _open(self.address)

    def files(self) -> dict[str, str]:
        """Returns the version of each object below, and of the address's own as ""."""

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            found = self._fs.find(self._root, detail=True)
            return found if isinstance(found, dict) else {}

        try:
            found = self._ask(find)
        except FileNotFoundError:
            return {}
        return self._versions(found)

    def exists(self) -> bool:
        """Returns whether there is an object here, or any below."""
        return bool(self.files())

    def glob(self, pattern: str) -> dict[str, str]:
        """Returns the versions of the objects that a glob matches, by their names."""

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            return dict(self._fs.glob(join(self._root, pattern), detail=True))

        try:
            found = self._ask(find)
        except FileNotFoundError:
            return {}
        return self._versions(found)

    def read(self, name: str) -> bytes | None:
        """Returns the content of an object; None: there is none."""

        def read() -> bytes:
            self._fs.invalidate_cache()
            return bytes(self._fs.cat_file(self._at(name)))

        try:
            return self._ask(read)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes, *, is_new: bool = False) -> bool:
        """Writes an object, and returns whether it did.

        Args:
            name: The object.
            content: What it shall hold.
            is_new: Whether to write only if there is none yet. S3 and GCS decide that
                in one step; a store that cannot is asked first.
        """
        mode = {"mode": "create"} if is_new else {}

        def write() -> bool:
            try:
                self._fs.pipe_file(self._at(name), content, **mode)
            except FileExistsError:
                return False
            except Exception as error:  # that of a store whose condition fails
                words = ("PreconditionFailed", "conditionNotMet", "412")
                if is_new and any(word in repr(error) for word in words):
                    return False
                raise
            return True

        return self._ask(write)

    def get(self, name: str, path: str) -> None:
        """Copies an object to a file."""
        self._ask(lambda: self._fs.get_file(self._at(name), path))

    def put(self, path: str, name: str) -> None:
        """Copies a file to an object."""
        self._ask(lambda: self._fs.put_file(path, self._at(name)))

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects, if they are there."""

        def remove(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._ask(lambda: self._fs.rm_file(self._at(name)))

        in_parallel(remove, names)

    def _versions(self, found: dict[str, Any]) -> dict[str, str]:
        """Returns the versions of the objects a store has found, by their names."""
        return {
            "" if path == self._root else os.path.relpath(path, self._root): _version(
                of
            )
            for path, of in found.items()
            if of.get("type") != "directory"
        }

    def _at(self, name: str) -> str:
        return join(self._root, name)

    def _ask(self, do: Callable[[], _T]) -> _T:
        """Does something, and raises in a store's place what a disk would.

        Raises:
            OSError: It cannot be done; FileNotFoundError: there is no such object.
        """
        try:
            return do()
        except FileNotFoundError as error:
            reason = "there is no such bucket or object"
            raise FileNotFoundError(errno.ENOENT, reason, self.address) from error
        # Each store's library has errors of its own.
        except Exception as error:
            number = error.errno if isinstance(error, OSError) else None
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise OSError(number or errno.EIO, reason, self.address) from error


def in_parallel(do: Callable[[_T], object], items: Iterable[_T]) -> None:
    """Calls a function with each of the items, several at a time."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(do, items):
            pass


@contextlib.contextmanager
def as_a_mistake(named: str) -> Iterator[None]:
    """Raises UsageError for what a store answers about an address the user gave.

    Args:
        named: The flag or key with the address, for the message.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{named} cannot be used ({error.strerror or error}); check the address, "
            "the credentials and the network"
        ) from None


@functools.lru_cache(maxsize=64)
def _open(address: str) -> tuple[Any, str]:
    """Returns the file system of an address, and the address's path there."""
    scheme = address.partition("://")[0]
    try:
        fs, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        if package is None:
            raise UsageError(f"{address} needs a package: {error}") from None
        raise UsageError(
            f"{address} needs a package: pip install {package} (or "
            f"'kdjax[{_EXTRAS[package]}]')"
        ) from None
    except ValueError as error:
        raise UsageError(
            f"{address} is in no store that is known ({error}); use gs://, s3:// or "
            "az://, or a path on a disk"
        ) from None
    return fs, str(root)


def _version(found: dict[str, Any]) -> str:
    """Returns what changes with an object's content."""
    keys = ("ETag", "etag", "md5Hash", "generation", "LastModified", "mtime", "created")
    mark = next((str(found[key]) for key in keys if found.get(key)), "")
    return f"{found.get('size')}-{mark.strip(chr(34))}"
