"""Which checkpoint of a run is the newest that may be used."""

from collections.abc import Callable, Iterable

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from kdjax.core.errors import UsageError
from kdjax.core.mirrors import pull
from kdjax.train import manifests
from kdjax.train.records import METRICS

DIRECTORY = "checkpoints"  # of a run

_NONE_IS_GOOD = -1


def latest_step(run: epath.Path) -> int:
    """Returns the step that a run will resume at; 0: it has no checkpoint.

    Checkpoints are read and verified, by the first process, for all.

    Raises:
        UsageError: All are damaged.
    """
    if jax.process_index() == 0:
        pull(run / DIRECTORY)
    step, _ = survey(run / DIRECTORY)
    return step


def survey(
    directory: epath.Path, allows: Callable[[int], bool] = lambda step: True
) -> tuple[int, list[str]]:
    """Returns the step of the checkpoint to resume at, and what to say of others.

    The newest that its manifest confirms; where none has a manifest, the newest.
    """
    step, said = 0, list[str]()
    if jax.process_index() == 0:
        step, said = _newest_good(directory, filter(allows, steps_of(directory)))
    if jax.process_count() > 1:
        step = int(multihost_utils.broadcast_one_to_all(step))
    if step == _NONE_IS_GOOD:
        raise UsageError(
            f"{'; '.join(said) or 'no checkpoint is good'}; restore one, or delete "
            f"{directory.parent} to train this run again"
        )
    return step, said


def steps_of(directory: epath.Path) -> list[int]:
    """Returns the steps of all checkpoints that were written to their end."""
    if not directory.exists():
        return []
    return sorted(
        int(path.name)
        for path in directory.iterdir()
        if path.name.isdigit()
        and path.is_dir()
        and ocp.utils.is_checkpoint_finalized(path)
    )


def _newest_good(directory: epath.Path, steps: Iterable[int]) -> tuple[int, list[str]]:
    """Returns the step of the newest good checkpoint, and what to say of others.

    Where none has a manifest, that is the newest.

    Args:
        directory: That of the checkpoints.
        steps: Those that there are, in order.

    Returns:
        0 if there are none at all, `_NONE_IS_GOOD` if all are damaged.
    """
    said: list[str] = []
    never_sealed: list[int] = []
    steps = [*steps][::-1]
    for step in steps:
        path = directory / str(step)
        if not manifests.is_sealed(path):
            never_sealed.append(step)
            continue
        damage = manifests.damage(path, directory.parent / METRICS)
        if damage is None:
            passed = (directory / str(later) for later in never_sealed)
            said += [f"{path} has no manifest, so it is not used" for path in passed]
            return step, said
        said.append(f"the checkpoint {path} cannot be used: {damage}")
    if never_sealed:
        path = directory / str(never_sealed[0])
        said.append(f"{path} is of an early version and cannot be verified")
        return never_sealed[0], said
    return (_NONE_IS_GOOD if steps else 0), said
