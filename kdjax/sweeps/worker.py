"""Runs the points of a sweep that no other worker runs, several at a time."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, NamedTuple

from kdjax.core.files import write_json
from kdjax.core.locks import Lock
from kdjax.core.logging import say
from kdjax.core.stopping import PREEMPTED, takes_to_stop
from kdjax.experiment.locking import process_lock
from kdjax.experiment.workdir import finished_report
from kdjax.sweeps.plan import Sweep, read_failure
from kdjax.sweeps.points import Point
from kdjax.sweeps.scores import describe, note_time

_LOOK_EVERY, _WAIT_FOR_OTHERS = 0.1, 1.0  # seconds
_GRACE = 60.0  # seconds that a stopped run gets to save its state
_LONGEST = 1000  # characters of a reason


class Task(NamedTuple):
    """A point to be trained.

    Attributes:
        point: The point.
        steps: For how many steps.
        is_finished: Whether it was, by this worker or another.
    """

    point: Point
    steps: int
    is_finished: Callable[[], bool]


def full_tasks(sweep: Sweep) -> list[Task]:
    """Returns all points, each to be trained as long as its config says."""

    def task(point: Point) -> Task:
        def is_finished() -> bool:
            return finished_report(sweep.workdir(point), point.config) is not None

        return Task(point, point.config.student.train.steps, is_finished)

    return [task(point) for point in sweep.points]


class _Running(NamedTuple):
    """A task whose process has started."""

    task: Task
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    lock: Lock
    began: float
    is_new: bool


class Worker:
    """Runs tasks in processes of their own, so that none can take another down."""

    def __init__(self, sweep: Sweep, workers: int) -> None:
        """Notes which points failed before: they are tried once more.

        Args:
            sweep: The sweep.
            workers: How many points run at a time.
        """
        self._sweep, self._workers = sweep, workers
        self._earlier = {p.name: _failure_id(sweep, p) for p in sweep.points}
        self._failed: dict[str, str] = {}
        self._running: list[_Running] = []

    def work(self, tasks: Sequence[Task]) -> dict[str, str]:
        """Returns once all tasks are finished or failed, whoever ran them.

        Returns:
            Why points failed, by their names.
        """
        left = list(tasks)
        with takes_to_stop(_GRACE):
            try:
                while left or self._running:
                    self._collect()
                    left = [task for task in left if not self._is_settled(task)]
                    is_busy = self._start_some(left)
                    pause = _WAIT_FOR_OTHERS if is_busy else _LOOK_EVERY
                    if left or self._running:
                        time.sleep(pause)
            finally:
                self._stop()
        names = {task.point.name for task in tasks}
        return {name: why for name, why in self._failed.items() if name in names}

    def _is_settled(self, task: Task) -> bool:
        name = task.point.name
        if any(running.task.point.name == name for running in self._running):
            return False
        if name in self._failed or task.is_finished():
            return True
        found = read_failure(self._sweep.failure(task.point))
        if found is not None and found.get("id") != self._earlier[name]:
            self._failed[name] = str(found.get("reason"))  # by another worker, now
            return True
        return False

    def _start_some(self, left: Sequence[Task]) -> bool:
        """Starts what is free; returns whether others run all that is left."""
        busy = {running.task.point.name for running in self._running}
        for task in left:
            if len(self._running) >= self._workers:
                return False
            if task.point.name not in busy:
                self._try_to_start(task)
        return not self._running

    def _try_to_start(self, task: Task) -> None:
        sweep, name = self._sweep, task.point.name
        lock = sweep.lock(name)
        if not lock.try_to_take():
            return
        # The process of a worker that was killed may have outlived it.
        own = Lock(process_lock(sweep.shared, sweep.workdir(task.point)))
        if not own.try_to_take():
            lock.release()
            return
        own.release()
        if task.is_finished():  # since it was looked at
            lock.release()
            return
        path = sweep.log(task.point)
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        log = path.open("ab")
        arguments = sweep.arguments(task.point, task.steps)
        process = subprocess.Popen(
            [sys.executable, "-m", "kdjax.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group to stop as one, data workers included
            env=self._environment(),
        )
        say(f"{name}: started; {path}")
        self._running.append(
            _Running(task, process, log, lock, time.monotonic(), is_new)
        )

    def _environment(self) -> dict[str, str]:
        shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if self._workers > 1 else {}
        # A task of a cluster's job passes its variables on; the points are none.
        return shared | os.environ | {"KDJAX_PROCESSES": "1"}

    def _collect(self) -> None:
        """Takes note of the processes that have ended."""
        for running in list(self._running):
            code = running.process.poll()
            if code is None:
                continue
            self._running.remove(running)
            running.log.close()
            _kill(running.process)  # data workers that were left behind
            point, seconds = running.task.point, time.monotonic() - running.began
            if code == 0 and running.task.is_finished():
                self._sweep.failure(point).unlink(missing_ok=True)
                if running.is_new:
                    note_time(self._sweep, point, running.task.steps, seconds)
                found = describe(self._sweep, point)
                say(f"{point.name}: finished in {seconds:.0f} s; {found}")
            elif code == PREEMPTED:  # by somebody else than this worker
                say(f"{point.name}: stopped after {seconds:.0f} s; starting again")
            else:
                self._fail(point, code)
            running.lock.release()

    def _fail(self, point: Point, code: int) -> None:
        reason = _reason(self._sweep, point, code)
        self._failed[point.name] = reason
        path = self._sweep.failure(point)
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {"reason": reason, "exit_code": code, "id": uuid.uuid4().hex[:8]}
        write_json(path, found)
        say(f"{point.name}: failed: {reason}")

    def _stop(self) -> None:
        """Stops what still runs, once it has saved its state."""
        for running in self._running:
            running.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE
        try:
            for running in self._running:
                left = max(0.0, deadline - time.monotonic())
                with suppress(subprocess.TimeoutExpired):
                    running.process.wait(left)
        finally:  # at once, if the worker is told to stop again
            for running in self._running:
                _kill(running.process)
                running.process.wait()
                running.log.close()
                running.lock.release()
            self._running.clear()


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _failure_id(sweep: Sweep, point: Point) -> object:
    found = read_failure(sweep.failure(point))
    return found.get("id") if found else None


def _reason(sweep: Sweep, point: Point, code: int) -> str:
    """Returns in a line why a point's process ended."""
    path = sweep.log(point)
    lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    said = [line for line in lines if line.strip()]
    errors = [line for line in said if line.startswith("error: ")]
    if code < 0:
        return f"ended by {signal.Signals(-code).name}; {path}"
    if errors and said[-1] == errors[-1]:
        return _shortened(errors[-1].removeprefix("error: "))
    last = _shortened(said[-1]) if said else "no output"
    return f"exit code {code}: {last}; {path}"


def _shortened(line: str) -> str:
    """Returns a line without its middle if it is long: what to do stands at its end."""
    if len(line) <= _LONGEST:
        return line
    return f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
