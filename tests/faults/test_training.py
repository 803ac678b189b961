"""A training that is stopped, damaged or starved goes on as if nothing had happened."""

import errno
import os
import pathlib
import signal
import threading
import time

import jax
import numpy as np
import pytest
from etils import epath
from toy_training import (
    CONFIG,
    EVERY_TWO,
    ROWS,
    finish,
    frozen,
    make_program,
    make_run,
    metrics,
    stop_at,
)

from kdjax.config import CheckpointConfig
from kdjax.core.errors import UsageError
from kdjax.core.stopping import Preempted
from kdjax.train import manifests
from kdjax.train.appending import AppendedFile
from kdjax.train.loop import train
from kdjax.train.meeting import Meeting
from kdjax.train.newest import DIRECTORY, latest_step
from kdjax.train.sources import Rows

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def program():
    return make_program()


@pytest.fixture(scope="module")
def straight(program, tmp_path_factory):
    """The parameters and the metrics of a run that nothing disturbed."""
    return finish(program, tmp_path_factory.mktemp("straight"))


def broken_at(program, *steps):
    """Returns the program with a gradient of NaN at some of the steps it takes."""
    broken = frozen(program, np.nan)
    calls = []

    def step(state, given, batch):
        calls.append(None)
        return program.step(state, broken if len(calls) in steps else given, batch)

    return program._replace(step=step)


@pytest.mark.parametrize(
    ("at", "numbers", "error", "kept"),
    [
        (1, (signal.SIGTERM,), Preempted, 1),
        # Its evaluation is left for the next start.
        (2, (signal.SIGTERM, signal.SIGTERM), Preempted, 2),
        (3, (signal.SIGINT,), KeyboardInterrupt, 3),
        (3, (signal.SIGINT, signal.SIGINT), KeyboardInterrupt, 2),  # not deferred
    ],
)
def test_a_signal_lets_the_step_end_and_loses_nothing(
    program, straight, tmp_path, at, numbers, error, kept
):
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(error) as raised:
        stop_at(at, program, tmp_path, numbers)
    assert raised.type is not Preempted or raised.value.code == 42
    assert [signal.getsignal(number) for number in numbers] == before
    assert latest_step(epath.Path(tmp_path)) == kept
    assert finish(program, tmp_path) == straight


def test_time_makes_checkpoints_and_changes_no_result(program, straight, tmp_path):
    often = CheckpointConfig(every=2, keep=9, minutes=1e-9)
    train(program, make_run(program, tmp_path), often, 1)
    found = sorted(path.name for path in (tmp_path / DIRECTORY).iterdir())
    assert found == ["1", "2", "3", "4"]
    assert metrics(tmp_path) == straight[1]


def stopped_at_three(program, directory):
    """Makes a run with the checkpoints of steps 2 and 3, and returns their place."""
    with pytest.raises(Preempted):
        stop_at(3, program, directory)
    return directory / DIRECTORY


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    program, straight, tmp_path, capsys
):
    place = stopped_at_three(program, tmp_path)
    files = filter(pathlib.Path.is_file, (place / "3" / "state").rglob("*"))
    flip(max(files, key=lambda path: path.stat().st_size))
    assert latest_step(epath.Path(tmp_path)) == 2
    assert finish(program, tmp_path) == straight
    said = capsys.readouterr().err
    assert f"{place / '3'} cannot be used: " in said and "resuming at step 2 of" in said


def test_without_a_good_checkpoint_nothing_starts_from_zero(program, tmp_path):
    place = stopped_at_three(program, tmp_path)
    for step in ("2", "3"):
        (place / step / "data" / "metadata").unlink()
    for _ in range(2):
        with pytest.raises(UsageError, match="data/metadata is missing; restore one"):
            train(program, make_run(program, tmp_path), EVERY_TWO, 1)
    assert sorted(path.name for path in place.iterdir()) == ["2", "3"]


def test_metrics_that_lost_records_are_written_again(program, straight, tmp_path):
    stopped_at_three(program, tmp_path)
    path = tmp_path / "metrics.jsonl"
    *lines, _ = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines))  # all that is known of step 3
    assert finish(program, tmp_path) == straight
    path.unlink()
    with pytest.raises(UsageError, match="restore one, or delete"):
        latest_step(epath.Path(tmp_path))


def test_checkpoints_of_early_versions_still_resume(
    program, straight, tmp_path, monkeypatch, capsys
):
    def position(self, *arguments):
        return self.source

    with monkeypatch.context() as early:
        early.setattr("kdjax.train.position.Position._asdict", position)
        early.setattr("kdjax.train.manifests.seal", lambda *arguments: None)
        stopped_at_three(program, tmp_path)
    assert finish(program, tmp_path) == straight
    said = capsys.readouterr().err
    assert "of an early version and cannot be verified" in said
    assert "resuming at step 3 of 4" in said


def test_a_skipped_step_is_not_saved_and_its_rows_are_named(program, tmp_path, capsys):
    run = make_run(program, tmp_path)
    broken = broken_at(program, 2)
    result = train(broken, run, CheckpointConfig(every=2, keep=9), 1)
    assert result.training.skipped_steps == 1
    found = sorted(path.name for path in (tmp_path / DIRECTORY).iterdir())
    assert found == ["3", "4"]  # that of step 2 has waited
    (rows,) = [r["skipped_rows"] for r in metrics(tmp_path) if "skipped_rows" in r]
    batches = Rows(ROWS, CONFIG, 0, program.job.mesh)
    batches.next(1, None)
    seen = jax.device_get(batches.next(2, None)["tokens"])
    np.testing.assert_array_equal(seen, [ROWS[row]["tokens"] for row in rows])
    said = capsys.readouterr().err
    assert f"training split: {', '.join(map(str, rows))}\n" in said


def test_a_run_that_diverges_never_finishes_by_starting_again(
    program, tmp_path, monkeypatch
):
    monkeypatch.setattr("kdjax.train.meter._MAX_SKIPPED", 2)
    for _ in range(3):
        run = make_run(program, tmp_path)
        start = latest_step(epath.Path(tmp_path))
        broken = broken_at(program, 3 - start, 4 - start)
        with pytest.raises(FloatingPointError, match="2 steps up to step 4"):
            train(broken, run, EVERY_TWO, 1)
        assert latest_step(epath.Path(tmp_path)) == 2


@pytest.mark.parametrize("steps", [(2,), (2, 4)])
def test_a_full_disk_is_told_at_once_and_the_next_save_tries_again(
    program, straight, tmp_path, monkeypatch, capsys, steps
):
    def seal(directory, *arguments):
        if int(directory.name.partition(".")[0]) in steps:
            raise FULL
        return sealed(directory, *arguments)

    sealed = manifests.seal
    with monkeypatch.context() as full:
        full.setattr(manifests, "seal", seal)
        run = make_run(program, tmp_path)
        if 4 in steps:
            with pytest.raises(OSError, match="last checkpoint could not be written"):
                train(program, run, EVERY_TWO, 1)
        else:
            train(program, run, EVERY_TWO, 1)
    said = [x for x in capsys.readouterr().err.splitlines() if "could not be" in x]
    assert len(said) == len(steps) and all("No space left on device" in x for x in said)
    assert not [*(tmp_path / DIRECTORY).glob("*tmp*")]
    assert finish(program, tmp_path) == straight


def test_metrics_wait_for_room_on_the_disk(
    program, straight, tmp_path, monkeypatch, capsys
):
    calls = []

    def write(self, **options):
        calls.append(None)
        if 3 < len(calls) < 8:
            raise FULL
        return written(self, **options)

    written = AppendedFile.write
    monkeypatch.setattr(AppendedFile, "write", write)
    train(program, make_run(program, tmp_path), EVERY_TWO, 1)
    assert metrics(tmp_path) == straight[1]
    assert capsys.readouterr().err.count("metrics cannot be written") == 1


class Store(dict):
    """A key-value store like jax's, in one process."""

    key_value_set = dict.__setitem__

    def blocking_key_value_get(self, key, milliseconds):
        deadline = time.monotonic() + milliseconds / 1000
        while key not in self:
            assert time.monotonic() < deadline, f"{key} never came"
        return self[key]


def test_a_process_that_waits_is_told_why_another_does_not_come():
    store = Store()
    first, second = (Meeting(store, index, 2, "save/0") for index in range(2))
    waiting = threading.Thread(target=first)
    waiting.start()
    second()
    waiting.join()
    second.fail("No space left on device")
    with pytest.raises(OSError, match="process 1: No space left on device"):
        first(5000)
    Meeting(None, 0, 1, "save/1")()  # alone
