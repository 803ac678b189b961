"""Which checkpoint of a run is the newest that may be used."""

from collections.abc import Iterable

from etils import epath

from kdjax.train import manifests
from kdjax.train.records import METRICS

NONE_IS_GOOD = -1


def newest_good(directory: epath.Path, steps: Iterable[int]) -> tuple[int, list[str]]:
    """Returns the step of the newest good checkpoint, and what to say of others.

    Where none has a manifest, that is the newest.

    Args:
        directory: That of the checkpoints.
        steps: Those that there are, in order.

    Returns:
        0 if there are none at all, `NONE_IS_GOOD` if all are damaged.
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
    return (NONE_IS_GOOD if steps else 0), said
