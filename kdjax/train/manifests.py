"""The manifest of a checkpoint: its files and their hashes, committed along with it."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

from etils import epath

from kdjax.config.parsing import convert
from kdjax.core.errors import UsageError
from kdjax.core.files import read_json, write_json
from kdjax.train.appending import Beginning

NAME = "manifest.json"
# Orbax rewrites it, with the time, when it commits; nothing that is restored is in it.
_LEFT_OUT = {NAME, "_CHECKPOINT_METADATA"}


def seal(
    directory: epath.Path,
    loss: float | None,
    metrics: Beginning | None,
    others: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes the manifest of a checkpoint that is complete but for it.

    Args:
        directory: The checkpoint's directory.
        loss: The held-out loss of its model; None: it was not measured.
        metrics: What the run's metrics were; None: there are none.
        others: The hashes of its files that are not in this directory.
    """
    files = {**hashes(directory), **others}
    write_json(directory / NAME, {"loss": loss, "metrics": metrics, "files": files})


def is_sealed(directory: epath.Path) -> bool:
    """Returns whether there is a manifest; those of early versions have none."""
    return (directory / NAME).exists()


def damage(directory: epath.Path, metrics: epath.Path) -> str | None:
    """Returns what is wrong with a sealed checkpoint; None: it is as it was written.

    Args:
        directory: The checkpoint's directory.
        metrics: The run's metrics, which must begin as they did then: those of later
            steps will be written again, those of earlier ones will not.
    """
    try:
        content = read_json(directory / NAME)
        wanted, before = content.get("files"), content.get("metrics")
        found = hashes(directory)
        if before is not None and not _beginning(before).is_of(metrics):
            return f"{metrics} has changed"
    except UsageError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or directory} cannot be read ({error.strerror})"
    if not isinstance(wanted, dict) or not wanted:
        return f"{directory / NAME} is damaged"
    # Orbax adds marks to what it commits, so that more files are no damage.
    for name, sha256 in sorted(wanted.items()):
        if name not in found:
            return f"{name} is missing"
        if found[name] != sha256:
            return f"{name} has changed"
    return None


def loss_of(directory: epath.Path) -> float | None:
    """Returns the held-out loss of a checkpoint's model; None: it is unknown."""
    paths = directory / NAME, directory / "metrics" / "metrics"  # the old place
    try:
        path = next(path for path in paths if path.exists())
        loss = read_json(path).get("loss")
    except (StopIteration, UsageError):
        return None
    return loss if isinstance(loss, float) else None


def _beginning(content: Any) -> Beginning:
    return Beginning(*convert(content, tuple[int, str], f"{NAME}: metrics"))


def hashes(directory: epath.Path) -> dict[str, str]:
    """Returns the hash of every file below, by its path there; reads in parallel."""
    paths = sorted(_files(directory))
    names = [path.relative_to(directory).as_posix() for path in paths]
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(names, pool.map(_sha256, paths), strict=True))


def _files(directory: epath.Path) -> Iterator[epath.Path]:
    for path in directory.iterdir():
        if path.is_dir():
            yield from _files(path)
        elif path.name not in _LEFT_OUT:
            yield path


def _sha256(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
