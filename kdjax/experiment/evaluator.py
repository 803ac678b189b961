"""The held-out metrics of an experiment's models."""

from typing import Any

from kdjax.core.logging import say
from kdjax.evaluation.held_out import EvalStep, evaluate, make_eval_step
from kdjax.experiment.setting import Setting
from kdjax.losses import LossSharding
from kdjax.results.measured import VALIDATION, HeldOut
from kdjax.targets.online import Predict
from kdjax.train.sources import device_batches


class Evaluator:
    """Evaluates the parameters of one architecture; its programs are compiled once."""

    def __init__(self, model: Predict, teacher: Predict, setting: Setting) -> None:
        """Compiles nothing yet.

        Args:
            model: Maps parameters and a batch to the distributions to evaluate.
            teacher: Maps frozen parameters and a batch to those to compare with.
            setting: The experiment's setting.
        """
        sharding = LossSharding(setting.mesh)
        self._setting = setting
        self._used: set[EvalStep] = set()
        self._alone = make_eval_step(setting.task, model, loss_sharding=sharding)
        self._compared = make_eval_step(
            setting.task, model, teacher, loss_sharding=sharding
        )

    def along_the_run(self, params: Any) -> dict[str, float]:
        """Returns cross-entropy and the headline on some rows, without a teacher."""
        rows = self._setting.config.evaluate.rows
        found = self._metrics(VALIDATION, rows, self._alone, params, {})
        return {k: found[k] for k in ("cross_entropy", self._setting.task.headline)}

    def final(self, params: Any, frozen: Any) -> dict[str, HeldOut]:
        """Returns all metrics on the report's rows of all held-out splits."""
        rows = self._setting.config.evaluate.final_rows
        return {
            split: HeldOut(**self._metrics(split, rows, self._compared, params, frozen))
            for split in self._setting.prepared.splits
            if split != "train"
        }

    def _metrics(
        self, split: str, rows: int, step: EvalStep, params: Any, frozen: Any
    ) -> dict[str, Any]:
        size = self._setting.config.evaluate.batch_size
        stored = self._setting.prepared.splits[split]
        if step not in self._used:
            self._used.add(step)
            say("evaluation: compiling ...")
        batches = device_batches(stored, self._setting.mesh, size, rows)
        with self._setting.clock("evaluation"):
            metrics = evaluate(step, params, frozen, batches)
        return self._setting.task.finish(metrics, split)
