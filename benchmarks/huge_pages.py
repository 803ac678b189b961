"""What a training step costs with and without huge pages, on a CPU.

    python -m benchmarks.huge_pages

Trains a model of two million parameters for some steps, on 16 rows of 128 tokens, in
processes of their own with `GLIBC_TUNABLES` empty and set as the commands set it, in
turns. Prints milliseconds of CPU time a step, those in the kernel, page faults a step,
and the resident memory in MB.
"""

import json
import resource
from typing import Any

import jax
from absl import app, flags

from benchmarks import common
from kdjax.config import ModelConfig, OptimizerConfig
from kdjax.core.huge_pages import HUGE
from kdjax.models import build
from kdjax.train.learner import whole_model
from kdjax.train.objective import hard_labels
from kdjax.train.optimizers import make_optimizer
from kdjax.train.state import create_state
from kdjax.train.step import make_train_step
from kdjax.train.task import next_token_task

_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes of each kind.", 1)

_MODEL = ModelConfig(layers=4, width=192, heads=4, ffn_width=512, vocab_size=1024)
_STEPS, _WARM = 20, 2


def main(argv: list[str]) -> None:
    """Runs the benchmark, or, given a request, the steps."""
    if argv[1:]:
        print(json.dumps(measured()))
        return
    rows = []
    for number in range(_ROUNDS.value):
        for kind, setting in (("without", ""), ("with", HUGE)):
            found = common.in_fresh_process(
                "benchmarks.huge_pages", {}, GLIBC_TUNABLES=setting
            )
            rows.append({"huge pages": kind, "round": number} | found)
    common.table("A step", tuple(rows[0]), [list(row.values()) for row in rows])
    common.save("huge-pages", {"rows": rows}, show=False)


def measured() -> dict[str, Any]:
    """Returns the figures of this process's steps."""
    model = build(_MODEL)
    optimizer = make_optimizer(OptimizerConfig(), _STEPS)
    step = make_train_step(
        whole_model(model), optimizer, hard_labels(), next_token_task()
    )
    state = create_state(model.init, optimizer, jax.random.key(0))
    batch = common.make_batch(16, 128, _MODEL.vocab_size)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for number in range(_WARM + _STEPS):
        if number == _WARM:
            jax.block_until_ready(state)
            before = resource.getrusage(resource.RUSAGE_SELF)
        state, _ = step(state, {}, batch)
    jax.block_until_ready(state)
    after = resource.getrusage(resource.RUSAGE_SELF)
    kernel = after.ru_stime - before.ru_stime
    total = kernel + after.ru_utime - before.ru_utime
    return {
        "CPU ms": round(1e3 * total / _STEPS),
        "kernel ms": round(1e3 * kernel / _STEPS),
        "page faults": round((after.ru_minflt - before.ru_minflt) / _STEPS),
        "resident MB": round(after.ru_maxrss / 1e3),
    }


if __name__ == "__main__":
    app.run(main)
