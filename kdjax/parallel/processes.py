"""How the processes of one run find each other, wherever it was started."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from kdjax.core import leaving
from kdjax.core.errors import UsageError
from kdjax.core.logging import mute, say

_HEARTBEAT = 30  # seconds without a sign of life after which a process counts as dead
_SHUTDOWN = 20  # seconds that a process waits at its end for the others
_PATIENCE = 20  # seconds of waiting for the others after which it is worth a line
_LONGEST = 300  # seconds of waiting for them
_NO_TASKS = 0xFFFFFFF0  # SLURM's ids from here on are shells, batch scripts and such


def join_processes() -> int:
    """Connects the processes of one run and returns this one's index.

    Where `KDJAX_PROCESSES` is set, as by `launch/local.py`, it is how many there are,
    and `KDJAX_PROCESS` is which of them this is; on TPUs, under SLURM and under Open
    MPI jax detects it; anywhere else there is one process. Must be called before
    anything asks jax for its devices. All processes but the first are muted.

    If a process dies, the others end within about half a minute, with an error. So does
    one that the others do not join within five minutes.

    Raises:
        UsageError: `KDJAX_PROCESSES` and `KDJAX_PROCESS` make no sense.
    """
    known: dict[str, Any] = {"local_device_ids": slurm_devices(os.environ)}
    if "KDJAX_PROCESSES" in os.environ:
        known["num_processes"], known["process_id"] = _told(os.environ)
        known["cluster_detection_method"] = "deactivate"
    if known.get("num_processes") == 1 or is_no_slurm_task(os.environ):
        return 0
    # Its handler would take SIGTERM, and do nothing.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with _expecting_the_others():
            jax.distributed.initialize(
                **known,
                initialization_timeout=2 * _LONGEST,
                heartbeat_timeout_seconds=_HEARTBEAT,
                shutdown_timeout_seconds=_SHUTDOWN,
            )
    except ValueError:  # no cluster was found
        return 0
    if jax.process_count() > 1:
        leaving.joined(jax.process_index())
    if jax.process_index():
        mute()
    return jax.process_index()


def _told(environment: Mapping[str, str]) -> tuple[int, int]:
    """Returns how many processes there are, and which of them this is."""
    count, index = (
        environment.get(name, "") for name in ("KDJAX_PROCESSES", "KDJAX_PROCESS")
    )
    if count == "1":
        return 1, 0
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UsageError(
            f"KDJAX_PROCESSES={count!r} and KDJAX_PROCESS={index!r} must be how many "
            "processes there are, and which this is, from 0; unset both for one process"
        )
    if int(count) > 1 and "JAX_COORDINATOR_ADDRESS" not in environment:
        raise UsageError(
            "KDJAX_PROCESSES needs JAX_COORDINATOR_ADDRESS=HOST:PORT, where the first "
            "process is found"
        )
    return int(count), int(index)


def is_no_slurm_task(environment: Mapping[str, str]) -> bool:
    """Returns whether this is a process of a SLURM job that runs alone.

    A shell, a batch script and what they start have the job's variables without being
    tasks of a step: they would wait for tasks that nobody starts, so a line tells what
    is assumed. A step's only task is alone as well.
    """
    job = environment.get("SLURM_JOB_ID")
    others = ("KDJAX_PROCESSES", "OMPI_COMM_WORLD_RANK")  # who knows better
    if job is None or any(name in environment for name in others):
        return False
    step = environment.get("SLURM_STEP_ID", "")
    is_task = step.isdecimal() and int(step) < _NO_TASKS
    tasks = environment.get("SLURM_NTASKS", "1")
    if not is_task and tasks != "1":
        say(
            f"note: SLURM job {job} has {tasks} tasks, and this is none that srun "
            "started: it runs as one process; put srun before the command to use all"
        )
    return not is_task or environment.get("SLURM_STEP_NUM_TASKS", tasks) == "1"


def slurm_devices(environment: Mapping[str, str]) -> list[int] | None:
    """Returns the GPUs of the one task on its SLURM node: all; None: jax decides.

    jax expects a task for each GPU, and would use one GPU of each node.
    """
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    is_own_choice = "JAX_LOCAL_DEVICE_IDS" in environment
    if is_own_choice or tasks.partition("(")[0] != "1" or not gpus.isdecimal():
        return None
    return [*range(int(gpus))]


@contextlib.contextmanager
def _expecting_the_others() -> Iterator[None]:
    """Says once that this process waits for the others, and ends it if none come.

    jax would say nothing for its own time, and abort with pages then.
    """
    where = os.environ.get("JAX_COORDINATOR_ADDRESS", "the first process's address")

    def give_up() -> None:
        message = f"error: not all processes of this run came to {where} within"
        print(f"{message} {_LONGEST} s", file=sys.stderr, flush=True)
        os._exit(1)

    waiting = f"waiting for the other processes of this run at {where} ..."
    timers = (
        threading.Timer(_PATIENCE, say, [waiting]),
        threading.Timer(_LONGEST, give_up),
    )
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
