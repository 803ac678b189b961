"""A run whose loss jumps goes back and takes other batches, stopped or not."""

import dataclasses

import jax
import numpy as np
import pytest
from toy_training import CONFIG, ROWS, Acting, finish, make_program, make_run, stop_at

from kdjax.config import CheckpointConfig
from kdjax.config.schema import SpikeGuardConfig
from kdjax.core.metrics import Mean
from kdjax.core.stopping import Preempted
from kdjax.train.loop import train
from kdjax.train.sources import Rows

STEPS, JUMP = 12, 8  # the batch at which the loss jumps
OFTEN = CheckpointConfig(every=2, keep=1)
GUARD = SpikeGuardConfig(deviations=1e4, window=4, rewind=3, skip=2)


@pytest.fixture(scope="module")
def plain():
    return make_program(STEPS)


def rows(program, batches):
    """Returns the rows of some batches, counted from 1."""
    source = Rows(ROWS, CONFIG, 0, program.job.mesh)
    return [row for number in batches for row in source.describe(number)]


def guarded(program, guard=GUARD, jumps=(JUMP,)):
    """Returns the program with a guard, and a loss that jumps at some batches."""
    seen, bad = [], [rows(program, [number]) for number in jumps]

    def step(state, frozen, batch):
        state, metrics = program.step(state, frozen, batch)
        seen.append(jax.device_get(batch["tokens"])[:, 0].tolist())
        if seen[-1] in bad:
            high = jax.device_put(np.float32(1e9)), jax.device_put(np.float32(1))
            metrics = {**metrics, "loss": Mean(*high)}
        return state, metrics

    config = dataclasses.replace(program.job.config, spike_guard=guard)
    job = program.job._replace(config=config)
    return program._replace(job=job, step=step), seen


@pytest.fixture(scope="module")
def straight(plain, tmp_path_factory):
    program, seen = guarded(plain)
    return *finish(program, tmp_path_factory.mktemp("straight"), OFTEN), seen


def test_a_jump_goes_back_and_leaves_out_all_that_led_to_it(plain, straight):
    _, records, seen = straight
    # Steps 1 to 8, and, from the checkpoint of step 4, 5 to 12 with other batches.
    assert seen == [rows(plain, [number]) for number in range(1, 17)]
    left_out = [r for r in records if "left_out_rows" in r]
    assert left_out == [{"step": 5, "left_out_rows": rows(plain, range(5, 9))}]
    trained = [record["step"] for record in records if "train/loss" in record]
    assert trained == [*range(1, STEPS + 1)]


# Before the jump, and after it was left out.
@pytest.mark.parametrize("at", [pytest.param(7, marks=pytest.mark.slow), 11])
def test_a_guarded_run_may_be_stopped_anywhere(plain, straight, tmp_path, at):
    program, _ = guarded(plain)
    with pytest.raises(Preempted):
        stop_at(at, program, tmp_path, config=OFTEN)
    assert finish(program, tmp_path, OFTEN) == straight[:2]


@pytest.mark.slow
def test_a_kill_between_jump_and_next_checkpoint_changes_nothing(
    plain, straight, tmp_path
):
    def kill():
        raise RuntimeError

    program, _ = guarded(plain)
    source = Acting(program, {JUMP + 1: kill})  # the first batch after those left out
    for _ in range(2):
        with pytest.raises(RuntimeError):
            train(program, make_run(program, tmp_path, source), OFTEN, 1)
    assert finish(program, tmp_path, OFTEN) == straight[:2]


@pytest.mark.slow
def test_jumps_from_the_same_place_leave_out_more_until_it_is_given_up(plain, tmp_path):
    program, seen = guarded(plain, jumps=(8, 12))
    result = train(program, make_run(program, tmp_path / "two"), OFTEN, 1)
    assert result.training.rows_left_out == 4 * 8
    assert seen[-8:] == [rows(plain, [number]) for number in range(13, 21)]
    once = dataclasses.replace(GUARD, times=1)
    program, _ = guarded(plain, once, jumps=(8, 12))
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="jumped at step 8, after it was"):
            train(program, make_run(program, tmp_path / "one"), OFTEN, 1)


@pytest.mark.slow
def test_a_run_that_is_stopped_between_two_jumps_knows_of_the_first(plain, tmp_path):
    twice = dataclasses.replace(GUARD, times=2)
    program, seen = guarded(plain, twice, jumps=(8, 12))
    with pytest.raises(Preempted):
        stop_at(11, program, tmp_path, config=OFTEN)
    finish(program, tmp_path, OFTEN)
    assert seen[-8:] == [rows(plain, [number]) for number in range(13, 21)]
