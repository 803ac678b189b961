"""Checkpoints of runs, and models on disk. The only file that imports orbax."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from kdjax.config import CheckpointConfig
from kdjax.errors import UsageError
from kdjax.state import TrainState
from kdjax.workdir import write_json

_POLICIES = ocp.checkpoint_managers


class Checkpoints:
    """The checkpoints of one run: {state, data position}, written asynchronously.

    The latest `keep` stay, and besides them the best by held-out loss. The teacher is
    never inside.
    """

    def __init__(self, directory: epath.Path, config: CheckpointConfig) -> None:
        def loss(metrics: dict[str, float]) -> float:
            return metrics["loss"]

        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_POLICIES.AnyPreservationPolicy(
                    [
                        _POLICIES.LatestN(config.keep),
                        _POLICIES.BestN(get_metric_fn=loss, reverse=True, n=1),
                    ]
                ),
                best_fn=loss,
                best_mode="min",
                cleanup_tmp_directories=True,
            ),
        )

    def latest(self) -> int | None:
        """Returns the newest complete step."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: TrainState, position: dict[str, int], loss: float
    ) -> None:
        """Starts writing; `position` is where the data goes on after `step`."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(position)
        )
        # Orbax copies to the host in ways that a guarded loop takes for accidental.
        with jax.transfer_guard("allow"):
            self._manager.save(step, metrics={"loss": loss}, args=items)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, int]]:
        """Returns state and position; `like` gives shapes, dtypes and shardings."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()
            ),
        )
        return restored["state"], restored["data"]

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()


def abstract(tree: Any, shardings: Any) -> Any:
    """Returns the tree of shapes with its shardings, as a target to restore to."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def save_model(directory: epath.Path, params: Any, card: dict[str, Any]) -> None:
    """Writes parameters, then `model.json`: whoever sees that sees a whole model.

    Args:
        directory: May hold an unfinished earlier attempt, which is replaced.
        params: The parameters.
        card: What must be known to use them; a hash of the parameter files is added.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(_params(directory), params, force=True)
    if jax.process_index() == 0:
        card = {**card, "sha256": _digest(_params(directory))}
        write_json(directory / "model.json", card)


def is_model(directory: epath.Path) -> bool:
    """Returns whether a complete model lies there."""
    return (directory / "model.json").exists()


_REQUIRED = {"model", "tokenizer", "end_of_text", "sha256"}


def load_card(
    directory: epath.Path, key: str = "config.teacher.path"
) -> dict[str, Any]:
    """Returns a model's `model.json`; `key` is what named the directory.

    Raises:
        UsageError: There is none, or it is not one of ours.
    """
    path = directory / "model.json"
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError):
        raise UsageError(
            f"{path} cannot be read; {key} must be the directory of a model that kdjax "
            "wrote, such as RUN/student-0/model, one in the Hugging Face format, or a "
            ".gguf file"
        ) from None
    if not isinstance(card, dict) or not set(card) >= _REQUIRED:
        raise UsageError(f"{path} was not written by kdjax; choose another directory")
    return card


def load_params(directory: epath.Path, like: Any) -> Any:
    """Returns the parameters, placed as `like` says.

    Raises:
        UsageError: The files are not those that were written.
    """
    if _digest(_params(directory)) != load_card(directory)["sha256"]:
        raise UsageError(f"the parameters in {directory} were changed or damaged")
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(_params(directory), like)


def _params(directory: epath.Path) -> epath.Path:
    return directory.absolute() / "params"


def _files(directory: epath.Path) -> Iterator[epath.Path]:
    for path in directory.iterdir():
        yield from _files(path) if path.is_dir() else (path,)


def _digest(directory: epath.Path) -> str:
    """Returns one hash over the names and contents of all files."""
    total = hashlib.sha256()
    for path in sorted(_files(directory)):
        total.update(path.relative_to(directory).as_posix().encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
