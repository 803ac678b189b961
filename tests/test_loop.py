"""A job is compiled from shapes alone, and its program serves every seed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from toys import packed_batch, random_params

from kdjax import models
from kdjax.config import (
    CheckpointConfig,
    DistillConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from kdjax.core.errors import UsageError
from kdjax.parallel.sharding import abstract, make_mesh, shardings
from kdjax.targets.online import of_ensemble
from kdjax.train.learner import whole_model
from kdjax.train.loop import Job, Run, prepare, train
from kdjax.train.objective import distillation
from kdjax.train.records import read_metrics
from kdjax.train.schedules import learning_rate
from kdjax.train.sources import Rows, batch_shapes
from kdjax.train.task import next_token_task

CONFIG = ModelConfig(layers=1, width=16, heads=2, vocab_size=60)
TRAIN = TrainConfig(steps=4, batch_size=4)
STORED = [
    {name: value[row] for name, value in packed_batch(24, 12, 60).items()}
    for row in range(24)
]


def compiled(config, distill):
    """Returns a program, compiled before any parameter exists."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    teacher = models.build(CONFIG)
    shapes = jax.eval_shape(teacher.init, jax.random.key(0))
    soft = of_ensemble({"teacher": teacher}, {"teacher": 1.0})
    job = Job(
        learner=whole_model(models.build(CONFIG)),
        objective=distillation(soft, distill, config.steps),
        task=next_token_task(),
        config=config,
        rules=(),
        mesh=mesh,
        frozen={"teacher": abstract(shapes, shardings(shapes, mesh))},
        batch=batch_shapes(STORED, config.batch_size, mesh),
    )
    return prepare(job)


@pytest.fixture(scope="module")
def program():
    ramp = ScheduleConfig(start=4.0, end=2.0)
    return compiled(TRAIN, DistillConfig(temperature=ramp, alpha=0.25))


def test_a_program_tells_its_memory_and_its_flops_before_it_runs(program):
    memory, cost = program.step.memory_analysis(), program.step.cost_analysis()
    kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(program.shapes))
    assert memory.alias_size_in_bytes <= kept  # what one device has of the state
    assert memory.alias_size_in_bytes >= kept / 8
    assert cost["flops"] > 0


def run_of(program, seed, directory):
    params = random_params(models.build(CONFIG))
    params = jax.tree.map(lambda x: 3.0 * x, params)
    placed = shardings(params, program.job.mesh)
    return Run(
        name=f"run-{seed}",
        directory=epath.Path(directory),
        seed=seed,
        source=Rows(STORED, TRAIN, seed, program.job.mesh),
        frozen={"teacher": jax.device_put(params, placed)},
        evaluate=lambda params: {"cross_entropy": 1.0, "bits_per_byte": 1.0},
        evaluate_every=2,
        flops=1.0,
    )


def test_seeds_of_one_program_differ_and_each_repeats_to_the_bit(program, tmp_path):
    keep = CheckpointConfig(every=2)
    found = {
        (seed, attempt): train(
            program, run_of(program, seed, tmp_path / f"{seed}-{attempt}"), keep, 1
        ).params
        for seed, attempt in ((0, 0), (1, 0), (0, 1))
    }
    first, other, again = map(jax.device_get, found.values())
    jax.tree.map(np.testing.assert_array_equal, first, again)
    kernels = (x["layers"]["mlp"]["up"]["kernel"] for x in (first, other))
    assert np.abs(np.subtract(*kernels)).max() > 1e-3
    records = [read_metrics(epath.Path(tmp_path / name)) for name in ("0-0", "0-1")]
    losses = [[r["train/loss"] for r in run if "train/loss" in r] for run in records]
    assert losses[0] == losses[1] and len(losses[0]) == TRAIN.steps


def test_what_moves_over_the_steps_is_recorded(program, tmp_path):
    train(program, run_of(program, 0, tmp_path), CheckpointConfig(every=2), 1)
    records = [r for r in read_metrics(epath.Path(tmp_path)) if "train/loss" in r]
    assert [r["train/temperature"] for r in records] == [4.0, 3.5, 3.0, 2.5]
    assert [r["train/alpha"] for r in records] == [0.25] * 4
    rate = learning_rate(TRAIN.optimizer, TRAIN.steps)
    expected = [float(rate(step)) for step in range(4)]
    assert [r["train/learning_rate"] for r in records] == pytest.approx(expected)


@pytest.fixture(scope="module")
def programs():
    """Of 3 and of 6 steps, with schedules that do not depend on the length."""
    steady = OptimizerConfig(warmup_steps=2, decay="constant")
    configs = (TrainConfig(steps=n, batch_size=4, optimizer=steady) for n in (3, 6))
    return [compiled(config, DistillConfig(temperature=2.0)) for config in configs]


def test_an_extended_run_is_a_longer_one_to_the_bit(programs, tmp_path):
    keep = CheckpointConfig(every=2)
    straight = train(programs[1], run_of(programs[1], 0, tmp_path / "long"), keep, 1)
    train(programs[0], run_of(programs[0], 0, tmp_path / "short"), keep, 1)
    more = run_of(programs[1], 0, tmp_path / "short")._replace(extends=3)
    extended = train(programs[1], more, keep, 1)
    jax.tree.map(
        np.testing.assert_array_equal,
        *map(jax.device_get, (extended.params, straight.params)),
    )
    losses = [
        [r["train/loss"] for r in read_metrics(epath.Path(path)) if "train/loss" in r]
        for path in (tmp_path / "short", tmp_path / "long")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_an_extension_without_its_checkpoint_is_refused(programs, tmp_path):
    run = run_of(programs[1], 0, tmp_path)._replace(extends=3)
    with pytest.raises(UsageError, match="no checkpoint of step 3"):
        train(programs[1], run, CheckpointConfig(every=2), 1)


def test_a_program_refuses_another_shape_instead_of_compiling_again(program, tmp_path):
    run = run_of(program, 0, tmp_path)
    state = program.create(jax.random.key(0))
    batch = {k: jnp.zeros((8, 12), jnp.int32) for k in ("tokens", "segments")}
    with pytest.raises(TypeError, match="compiled"):
        program.step(state, run.frozen, batch)
