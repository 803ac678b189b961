"""Batches are there before their step, and nobody can tell that they were."""

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

import jax
import numpy as np
import pytest
import runs
import toy_training as toy

from kdjax.core.errors import UsageError
from kdjax.core.stopping import Preempted
from kdjax.train.loop import train
from kdjax.train.sources import Rows

# Devices of two processes take turns along the batch, as on a torus they may.
APART = """
import json
from kdjax.parallel.processes import join_processes
rank = join_processes()
import jax, numpy as np
from jax.sharding import Mesh
from kdjax.parallel.sharding import AXES, data_shard, to_devices
devices = np.asarray(jax.devices()).reshape(2, 2).T.reshape(4, 1, 1)
mesh = Mesh(devices, AXES)
share = data_shard(mesh, 8)
rows = np.asarray(share.rows, np.int32)[:, None]
batch = to_devices({"tokens": rows}, mesh, share)["tokens"]
whole = jax.jit(lambda x: x[:, 0], out_shardings=jax.NamedSharding(mesh, jax.P()))
said = [rank, [*share.rows], np.asarray(whole(batch)).tolist()]
print("|" + json.dumps(said), flush=True)
"""


class Reader(Sequence):
    """Rows that take their time, and count how many were read."""

    def __init__(self, seconds=0.0, lost_after=10**9):
        self._seconds, self._lost = seconds, lost_after
        self._count = itertools.count(1)
        self.read, self.changed = 0, threading.Condition()

    def __len__(self):
        return len(toy.ROWS)

    def __getitem__(self, row):
        time.sleep(self._seconds)
        with self.changed:
            self.read = next(self._count)
            self.changed.notify_all()
        if self.read > self._lost:
            raise UsageError(f"row {row} is gone")
        return toy.ROWS[row]


def source(reader, program):
    return Rows(reader, toy.CONFIG, 0, program.job.mesh)


@pytest.fixture(scope="module")
def program():
    return toy.make_program()


def threads():
    """Returns how many threads read ahead, once those that end have done so."""
    for _ in range(100):
        alive = [x for x in threading.enumerate() if "prefetch" in x.name]
        if not alive:
            break
        time.sleep(0.02)
    return len(alive)


def test_batches_are_read_while_nobody_waits_for_them_and_do_not_count(program):
    reader = Reader()
    batches = source(reader, program)
    batches.next(1, None)
    size = toy.CONFIG.batch_size
    with reader.changed:
        assert reader.changed.wait_for(lambda: reader.read >= 3 * size, timeout=20)
    position = batches.position()
    later = source(Reader(), program)
    later.restore(position)
    for step in (2, 3):
        found, expected = (each.next(step, None)["tokens"] for each in (later, batches))
        np.testing.assert_array_equal(found, expected)
    for each in (batches, later):
        each.close()


@pytest.mark.parametrize("end", [None, Preempted, UsageError])
def test_no_thread_outlives_a_run_and_an_error_arrives_as_it_was_raised(
    end, program, tmp_path
):
    lost = 3 * toy.CONFIG.batch_size if end is UsageError else 10**9
    run = toy.make_run(program, tmp_path, source(Reader(lost_after=lost), program))

    def signalled(params):
        os.kill(os.getpid(), signal.SIGTERM)
        return toy.evaluate(params)

    if end is Preempted:
        run = run._replace(evaluate=signalled)
    with pytest.raises(end) if end else contextlib.nullcontext():
        train(program, run, toy.EVERY_TWO, 1)
    assert threads() == 0


@pytest.mark.slow
def test_a_reader_that_takes_most_of_a_step_s_time_costs_none_of_it(program):
    step, count = 0.1, 20
    reader = Reader(0.8 * step / toy.CONFIG.batch_size)
    batches = source(reader, program)
    batches.next(0, None)
    waited = 0.0
    for number in range(1, count):
        before = time.perf_counter()
        jax.block_until_ready(batches.next(number, None))
        waited += time.perf_counter() - before
        time.sleep(step)
    batches.close()
    assert waited < 0.4 * 0.8 * step * count  # of the time that reading took


@pytest.mark.slow
def test_processes_whose_devices_take_turns_read_only_their_own_blocks(tmp_path):
    (tmp_path / "apart.py").write_text(APART)
    two = (runs.LAUNCHER, "--processes=2", "--devices=2", "--", sys.executable)
    said = runs.run(*two, tmp_path / "apart.py").stdout.splitlines()
    found = sorted(json.loads(line.split("|")[1]) for line in said if "|" in line)
    whole = [*range(8)]
    assert found == [[0, [0, 1, 4, 5], whole], [1, [2, 3, 6, 7], whole]]
