"""What an experiment measures of its models, along their runs and at the end."""

import dataclasses
from typing import Any

from kdjax.core.logging import say
from kdjax.evaluation.evaluators import ERROR
from kdjax.evaluation.held_out import HeldOutText
from kdjax.evaluation.likelihood import Subject
from kdjax.experiment.setting import Setting
from kdjax.losses import LossSharding
from kdjax.results.data import VALIDATION
from kdjax.results.measured import HeldOut
from kdjax.targets.online import Predict
from kdjax.train.sources import device_batches

Tasks = dict[str, dict[str, float]]  # metrics by task and name
_FIELDS = {field.name for field in dataclasses.fields(HeldOut)}


class Evaluator:
    """Evaluates the parameters of one architecture; its programs are compiled once."""

    def __init__(self, subject: Subject, teacher: Predict, setting: Setting) -> None:
        """Compiles nothing yet.

        Args:
            subject: The model, or the ensemble, to evaluate.
            teacher: Maps frozen parameters and a batch to those to compare with.
            setting: The experiment's setting.
        """
        self._subject, self._teacher, self._setting = subject, teacher, setting
        self._used: set[bool] = set()

    def along_the_run(self, params: Any) -> dict[str, float]:
        """Returns cross-entropy, the headline and own metrics on some rows, and tasks.

        None of them is compared with a teacher.
        """
        setting = self._setting
        with setting.clock("evaluation"):
            text = self._text(VALIDATION, setting.config.evaluate.rows, brief=True)
            found, measured = text(self._subject, params), self.tasks(params)
        own = (name for name, _ in setting.own_metrics)
        names = ("cross_entropy", setting.task.headline, *own)
        tasks = {
            f"{task}/{name}": value
            for task, metrics in measured.items()
            for name, value in metrics.items()
            if not name.endswith(ERROR)
        }
        return {name: found[name] for name in names} | tasks

    def measures(self, params: Any, frozen: Any) -> dict[str, Any]:
        """Returns what the report has of a run, as fields of `Run`."""
        with self._setting.clock("evaluation"):
            return {"final": self.final(params, frozen), "tasks": self.tasks(params)}

    def final(self, params: Any, frozen: Any) -> dict[str, HeldOut]:
        """Returns all metrics on the report's rows of all held-out splits."""
        setting = self._setting
        return {
            split: _held_out(
                self._text(
                    split,
                    setting.config.evaluate.final_rows,
                    teacher=self._teacher,
                    frozen=frozen,
                )(self._subject, params)
            )
            for split in setting.prepared.splits
            if split != "train"
        }

    def tasks(self, params: Any) -> Tasks:
        """Returns the metrics of the config's tasks."""
        return {
            evaluator.name: evaluator(self._subject, params)
            for evaluator in self._setting.tasks
        }

    def _text(self, split: str, rows: int, **what: Any) -> HeldOutText:
        setting, is_compared = self._setting, "teacher" in what
        if is_compared not in self._used:
            self._used.add(is_compared)
            say("evaluation: compiling ...")
        size, stored = (
            setting.config.evaluate.batch_size,
            setting.prepared.splits[split],
        )
        return HeldOutText(
            split,
            setting.task,
            lambda: device_batches(stored, setting.mesh, size, rows),
            own=setting.own_metrics,
            loss_sharding=LossSharding(setting.mesh),
            **what,
        )


def _held_out(metrics: dict[str, Any]) -> HeldOut:
    """Returns the metrics of one split, the user's own apart."""
    known = {name: value for name, value in metrics.items() if name in _FIELDS}
    own = {name: value for name, value in metrics.items() if name not in _FIELDS}
    return HeldOut(**known, own=own)
