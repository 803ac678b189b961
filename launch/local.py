"""Runs one command as several processes on this machine, over loopback, on CPU.

    python launch/local.py --processes=2 --devices=1 -- python -m kdjax.main ...

When one process fails, the others can only wait for it, so they are killed and all are
started again, which resumes from the last checkpoint. Restarts that bring no progress
are counted, and end.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NoReturn

_SAVED = 42  # stopped by a signal, with everything saved
_FINAL = (0, 2, 130)  # done, a mistake in the command or config, Ctrl-C
_SAVE_GRACE = 120.0  # seconds the others get to save as well


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"launch: {message}\n")


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _start(command: list[str], **environment: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env=os.environ | {name: str(value) for name, value in environment.items()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # A group to kill as one, data workers included.
    )


def _relay(rank: int, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    # If our own reader is gone, the pipe closes and the rank sees that itself.
    with process.stdout, contextlib.suppress(BrokenPipeError):
        for line in process.stdout:
            # One write per line, so that lines of different ranks do not interleave.
            sys.stdout.write(f"[{rank}] {line.rstrip()}\n")
            sys.stdout.flush()


def _kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _wait(
    running: dict[int, subprocess.Popen[str]], received: list[int], grace: float
) -> int:
    """Empties `running` and returns the exit code of the first rank that failed."""
    status, deadline, forwarded = 0, float("inf"), 0
    while running:
        for number in received[forwarded:]:
            forwarded += 1
            for process in running.values():
                process.send_signal(number)
        # Supervisors may repeat SIGTERM, but a second Ctrl-C means: stop waiting.
        if received.count(signal.SIGINT) > 1 or time.monotonic() > deadline:
            for process in running.values():
                _kill_group(process)
        for rank, process in list(running.items()):
            if (code := process.poll()) is not None:
                del running[rank]
                _kill_group(process)  # Now, before the id can be reused.
                if code:
                    _say(f"rank {rank} ended with {code}")
                    status = status or (code if code > 0 else 128 - code)
                    allowed = _SAVE_GRACE if code == _SAVED else grace
                    deadline = min(deadline, time.monotonic() + allowed)
        time.sleep(0.05)
    return status


def run(
    command: list[str],
    processes: int,
    devices: int,
    grace: float,
    retries: int,
    pause: float,
    workdir: str | None,
) -> int:
    """Runs the command until it is done, or restarting it is of no use.

    Returns:
        0 if every rank's exit code was, else that of the first that failed.
    """
    # The handlers only record, so signals during start-up reach every rank too.
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: received.append(number))
    seen, restarts = _milestones(workdir), 0
    while True:
        status = _run_once(command, processes, devices, grace, received)
        if status in _FINAL or received:
            return status
        found = _milestones(workdir)
        restarts = 0 if found - seen else restarts
        if restarts == retries:
            if retries:
                _say(f"giving up: no progress in {retries} restart(s)")
            return status
        restarts, seen = restarts + 1, seen | found
        _say(f"starting all again, restart {restarts} of {retries} without progress")
        time.sleep(pause)
        if received:
            return status


def _run_once(
    command: list[str],
    processes: int,
    devices: int,
    grace: float,
    received: list[int],
) -> int:
    address = _free_address()
    running: dict[int, subprocess.Popen[str]] = {}
    try:
        for rank in range(processes):
            running[rank] = _start(
                command,
                JAX_COORDINATOR_ADDRESS=address,
                # The default binds every interface, exposing it to other machines.
                JAX_COORDINATOR_BIND_ADDRESS=address,
                JAX_PLATFORMS="cpu",
                JAX_NUM_CPU_DEVICES=devices,
                KDJAX_PROCESSES=processes,
                KDJAX_PROCESS=rank,
                PYTHONUNBUFFERED=1,  # Python buffers its output to a pipe.
            )
            threading.Thread(target=_relay, args=(rank, running[rank])).start()
        return _wait(running, received, grace)
    finally:
        for process in running.values():
            _kill_group(process)


def _milestones(workdir: str | None) -> set[str]:
    """Returns what a run leaves in its workdir as it gets on.

    These are its checkpoints, by their steps, and what finished stages write.
    """
    if workdir is None:
        return set()
    place = pathlib.Path(workdir)
    steps = (p for p in place.glob("**/checkpoints/*") if p.name.isdecimal())
    return {str(path) for path in (*steps, *place.glob("**/*.json"))}


def _workdir_of(command: list[str]) -> str | None:
    """Returns the value of the command's `--workdir`, if it has one."""
    for word, following in zip(command, [*command[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in ("--workdir", "-workdir"):
            return value if equals else following
    return None


def _say(message: str) -> None:
    print(f"launch: {message}", file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Reads the command line and returns the exit code."""
    parser = _Parser(
        usage="%(prog)s [options] -- command ...",
        description="Runs one command as several processes on this machine's CPU.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--processes", type=int, default=2, help="how many to start (default 2)")
    add("--devices", type=int, default=1, help="CPU devices of each (default 1)")
    add(
        "--grace",
        type=float,
        default=5,
        help="seconds the others get after a failure (default 5)",
    )
    add(
        "--retries",
        type=int,
        default=3,
        help="restarts in a row without a new checkpoint or stage (default 3)",
    )
    add("--pause", type=float, default=1, help="seconds before them (default 1)")
    add("--workdir", help="where to look for those (default: the command's --workdir)")
    # By hand: argparse's handling of `--` differs between Python versions.
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options, command = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    if min(options.processes, options.devices) < 1:
        parser.error("--processes and --devices must be 1 or more")
    if options.retries < 0:
        parser.error("--retries must be 0 or more")
    if not command:
        parser.error("no command: write it after `--`")
    if shutil.which(command[0]) is None:
        parser.error(f"command not found: {command[0]}")
    options.workdir = options.workdir or _workdir_of(command)
    return run(command, **vars(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
