"""Times the distillation step against its two halves, and compilation against depth.

    python -m benchmarks.step

Prints, from one run, the times of the distillation step, the same student's hard-label
step and the teacher's forward pass, and the ratio step / (student + teacher): what
distillation costs beyond the unavoidable work. Then prints the seconds to compile the
hard-label step with 4 and with 24 layers, which scanning over layers keeps equal.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags
from ml_collections import config_flags

from benchmarks import common
from kdjax.config import Config, ModelConfig, OptimizerConfig
from kdjax.config.validation import validate
from kdjax.models import Model, build
from kdjax.targets.online import of_model
from kdjax.train.learner import whole_model
from kdjax.train.objective import distillation, hard_labels
from kdjax.train.optimizers import make_optimizer
from kdjax.train.state import create_state
from kdjax.train.step import TrainStep, make_train_step
from kdjax.train.task import next_token_task

_CONFIG = config_flags.DEFINE_config_file("config", "configs/gpt_small.py")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Timed rounds, after one warm-up.")


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    settings = validate(_CONFIG.value)
    common.save("step", times(settings, _ROUNDS.value) | {"compile": compile_times()})


def times(settings: Config, rounds: int) -> dict[str, Any]:
    """Returns the milliseconds of the step and its parts, and their ratio."""
    vocab = settings.tokenizer.vocab_size
    teacher = build(dataclasses.replace(settings.teacher.model, vocab_size=vocab))
    student = build(dataclasses.replace(settings.student.model, vocab_size=vocab))
    train = settings.student.train
    optimizer = make_optimizer(train.optimizer, train.steps)
    learner, task = whole_model(student), next_token_task()
    soft = distillation(of_model(teacher), settings.distill, train.steps)
    batch = common.make_batch(train.batch_size, settings.data.length, vocab)
    teacher_params = jax.jit(teacher.init)(jax.random.key(1))
    forward = jax.jit(teacher.logits)

    def repeat(step: TrainStep, frozen: Any) -> Callable[[], Any]:
        state = create_state(student.init, optimizer, jax.random.key(0))

        def once() -> Any:
            nonlocal state
            state, metrics = step(state, frozen, batch)
            return state, metrics

        return once

    functions = {
        "distillation_step": repeat(
            make_train_step(learner, optimizer, soft, task), teacher_params
        ),
        "student_step": repeat(
            make_train_step(learner, optimizer, hard_labels(), task), {}
        ),
        "teacher_forward": lambda: forward(
            teacher_params, batch["tokens"], batch["segments"]
        ),
    }
    spent = common.interleaved(functions, rounds)
    parts = [
        a + b
        for a, b in zip(spent["student_step"], spent["teacher_forward"], strict=True)
    ]
    milliseconds = {k: round(1e3 * statistics.median(v), 1) for k, v in spent.items()}
    ratio = common.median_ratio(spent["distillation_step"], parts)
    return {
        "batch": list(batch["tokens"].shape),
        "vocabulary": vocab,
        "milliseconds": milliseconds,
        "step / (student + teacher)": round(ratio, 3),
    }


def compile_times() -> dict[str, float]:
    """Returns seconds to compile the hard-label step, by number of layers."""
    seconds = {}
    for layers in (4, 24):
        model = build(ModelConfig(layers=layers, width=96, heads=4, vocab_size=1024))
        seconds[f"{layers} layers"] = round(_compile_time(model), 2)
    return seconds


def _compile_time(model: Model) -> float:
    optimizer = make_optimizer(OptimizerConfig(), 100)
    state = jax.eval_shape(
        lambda key: create_state(model.init, optimizer, key), jax.random.key(0)
    )
    batch = jax.eval_shape(lambda: common.make_batch(32, 128, 1024))
    step: Any = make_train_step(
        whole_model(model), optimizer, hard_labels(), next_token_task()
    )
    started = time.perf_counter()
    step.lower(state, {}, batch).compile()
    return time.perf_counter() - started


if __name__ == "__main__":
    app.run(main)
