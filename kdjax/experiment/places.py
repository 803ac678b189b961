"""Where experiments are: a directory on this disk, which may mirror one in a bucket."""

import contextlib
from collections.abc import Iterator

from etils import epath

from kdjax.core.buckets import Bucket, as_a_mistake, is_remote
from kdjax.core.errors import UsageError
from kdjax.core.mirrors import mirrored, pull, push

CONFIG, LEASE = "config.json", ".lease"


@contextlib.contextmanager
def opened(workdir: epath.PathLike) -> Iterator[epath.Path]:
    """Yields the directory on this disk of an experiment that may be in a bucket.

    Raises:
        UsageError: The bucket cannot be read, or holds something else there.
    """
    with mirrored(workdir) as directory:
        if is_remote(workdir):
            with as_a_mistake(str(workdir)):
                names = Bucket(str(workdir)).files().keys() - {LEASE}
                if names and CONFIG not in names:
                    raise not_ours(workdir)
                fetch(directory)
        yield directory


def fetch(workdir: epath.Path) -> None:
    """Copies an experiment from its bucket, if it is in one, but for checkpoints."""
    pull(workdir, _is_no_checkpoint)


def commit(workdir: epath.Path) -> None:
    """Copies an experiment to its bucket, if it is in one, but for checkpoints."""
    push(workdir, _is_no_checkpoint)


def not_ours(workdir: epath.PathLike) -> UsageError:
    """Returns what is said of a directory that holds something else."""
    return UsageError(
        f"{workdir} is not empty and holds no experiment, so it is left untouched; "
        "choose another --workdir"
    )


def _is_no_checkpoint(name: str) -> bool:
    return "checkpoints" not in name.split("/")
