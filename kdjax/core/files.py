"""Small files: JSON that is checked when read, and writes that are whole or absent."""

import contextlib
import hashlib
import json
import os
import platform
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from kdjax.core.errors import UsageError

SEAL = "checksum"  # the key of a file's own hash
_DEEPEST = 64  # levels of nesting; a file of ours has a dozen
_FORGOTTEN = 24 * 60 * 60.0  # seconds after which nobody still writes a small file


def read_json(path: epath.Path, remedy: str = "") -> dict[str, Any]:
    """Returns the object in a JSON file.

    Args:
        path: The file.
        remedy: What to do if it is damaged, for the message.

    Raises:
        UsageError: The file is missing, holds something else, or is not what
            `write_json` sealed.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        reason = _damage(content)
    # A deeply nested file exhausts the parser's stack.
    except (OSError, ValueError, RecursionError) as error:
        reason = f"cannot be read ({str(error).splitlines()[0]})"
    if reason:
        raise UsageError("; ".join(filter(None, (f"{path} {reason}", remedy))))
    return {key: value for key, value in content.items() if key != SEAL}


def write_json(path: epath.Path, content: Any, *, sealed: bool = True) -> None:
    """Writes JSON atomically, as `write_bytes` does.

    Args:
        path: The file.
        content: What it shall hold.
        sealed: Whether to add a checksum, which `read_json` verifies and takes off.
    """
    if sealed:
        content = {**content, SEAL: _checksum(json.loads(json.dumps(content)))}
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Writes a file atomically and durably.

    Readers see the old content or the new one, never half, even if the machine stops.
    """
    temporary = beside(path)
    try:
        temporary.write_bytes(content)
        flush(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


def hash_file(path: epath.Path) -> str:
    """Returns the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(paths: Iterable[epath.Path]) -> dict[str, str]:
    """Returns the hashes of files of one directory, by their names."""
    return {path.name: hash_file(path) for path in paths}


def changed_file(directory: epath.Path, hashes: Mapping[str, Any]) -> str:
    """Returns the name of a file that is no longer what was hashed; "": there is none.

    Args:
        directory: Where the files are.
        hashes: What `hash_files` returned of them.
    """
    for name, expected in hashes.items():
        path = directory / os.path.basename(name)
        if not path.is_file() or hash_file(path) != expected:
            return str(name)
    return ""


def flush(path: epath.Path) -> None:
    """Makes what was written to a local file, or the names in a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # which some file systems cannot flush
            raise
    finally:
        os.close(descriptor)


def beside(path: epath.Path) -> epath.Path:
    """Returns a name for what is to take the place of a file once it is complete.

    It tells who writes there, for `remove_leftovers`.
    """
    owner = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return path.with_name(f"{path.name}.{owner}.tmp")


def remove_leftovers(directory: epath.Path, *patterns: str) -> None:
    """Removes what killed processes left of files that they were writing.

    Whether a process on another machine was killed is not known; what it left goes
    after a day.

    Args:
        directory: Where; nothing happens if it does not exist.
        patterns: Which directories in it hold files, as globs; "." is itself.
    """
    for pattern in patterns:
        for path in directory.glob(os.path.join(pattern, "*.tmp")):
            with contextlib.suppress(OSError):  # another process may remove it as well
                if path.is_file() and is_left(path):
                    path.unlink()


def is_left(path: epath.Path) -> bool:
    """Returns whether nobody is writing what `beside` named."""
    owner = path.name.removesuffix(".tmp").rpartition("-")[0]
    host, _, process = owner.rpartition("-")
    if not (host.endswith(f".{platform.node()}") and process.isdecimal()):
        return path.stat().mtime < time.time() - _FORGOTTEN
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it lives, and is another user's
        return False
    return False


def _damage(content: Any) -> str:
    """Returns what is wrong with the content of a file; "": nothing."""
    if not isinstance(content, dict):
        return "must hold a JSON object"
    level: list[Any] = [content]
    for _ in range(_DEEPEST):
        level = [inner for item in level for inner in _inside(item)]
    if level:
        return "is nested too deeply"
    # Files of older versions are not sealed; a seal's own name may be damaged.
    last = SEAL if SEAL in content else next(reversed(content), SEAL)
    rest = {key: value for key, value in content.items() if key != last}
    is_sealed = last in content and content[last] == _checksum(rest)
    if is_sealed != (SEAL in content):
        return "was changed or damaged after it was written"
    return ""


def _inside(item: Any) -> Any:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()


def _checksum(content: Any) -> str:
    """Returns the hash of a file's content, however it is written."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
