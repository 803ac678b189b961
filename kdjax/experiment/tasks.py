"""What a config asks to be measured beside held-out text."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax.sharding import Mesh

from kdjax.config.schema import Config
from kdjax.core.inputs import fetched
from kdjax.evaluation.evaluators import Evaluator, make_evaluator
from kdjax.evaluation.held_out import OwnMetrics
from kdjax.evaluation.items import Items, read_tasks
from kdjax.evaluation.own_metrics import load_metrics
from kdjax.experiment import evaluator as measuring
from kdjax.experiment.setting import Setting
from kdjax.experiment.students import remembered
from kdjax.text import TextTokenizer


class Asked(NamedTuple):
    """The tasks' items, not encoded yet, and the user's own metrics of a token.

    Attributes:
        items: The questions of each task.
        metrics: The metrics by name.
        hashes: Those of the tasks' files, by their paths in the config.
    """

    items: tuple[Items, ...]
    metrics: OwnMetrics
    hashes: Mapping[str, str]


def read_asked(config: Config) -> Asked:
    """Reads the tasks and loads the metrics.

    Raises:
        UsageError: One of them is missing or wrong.
    """
    tasks = config.evaluate.tasks
    return Asked(
        tuple(read_tasks(tasks, "config.evaluate.tasks")),
        load_metrics(config.evaluate.metrics, "config.evaluate.metrics"),
        {path: _hash(path) for path in tasks},
    )


def _hash(path: str) -> str:
    return hashlib.sha256(fetched(path).read_bytes()).hexdigest()


def make_evaluators(
    asked: Asked, config: Config, tokenizer: TextTokenizer, mesh: Mesh
) -> tuple[Evaluator, ...]:
    """Returns an evaluator of each task.

    Raises:
        UsageError: The tokenizer has no ids for an item.
    """
    return tuple(
        make_evaluator(
            items,
            tokenizer,
            mesh=mesh,
            batch_size=config.evaluate.batch_size,
            special_tokens=config.data.special_tokens,
        )
        for items in asked.items
    )


def tasks_of_start(
    evaluator: measuring.Evaluator, params: Callable[[], Any], setting: Setting
) -> measuring.Tasks:
    """Returns a student's metrics before any training, measured once."""
    if not setting.tasks:
        return {}
    path = setting.workdir / "initial_tasks.json"
    return remembered(path, lambda: evaluator.tasks(params()), measuring.Tasks)
