"""Checkpoints of a run in progress: its state, and the position of its data."""

import jax
import orbax.checkpoint as ocp
from etils import epath

from kdjax.config.schema import CheckpointConfig
from kdjax.train.state import TrainState

DIRECTORY = "checkpoints"  # of a run
_POLICIES = ocp.checkpoint_managers


def latest_step(run: epath.Path) -> int:
    """Returns the step of a run's newest complete checkpoint; 0: there is none."""
    directory = run / DIRECTORY
    if not directory.exists():
        return 0
    return max(ocp.utils.checkpoint_steps(directory), default=0)


class Checkpoints:
    """The checkpoints of one run: {state, data position}, written asynchronously.

    The latest `keep` stay, and besides them the best by held-out loss. The teacher is
    never inside.
    """

    def __init__(self, run: epath.Path, config: CheckpointConfig) -> None:
        """Opens those of the run with this directory."""

        def loss(metrics: dict[str, float]) -> float:
            return metrics["loss"]

        self._manager = ocp.CheckpointManager(
            (run / DIRECTORY).absolute(),
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
        """Starts writing; `position` is that of the data after `step`."""
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
