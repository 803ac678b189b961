"""Runs one command as several processes on this machine, over loopback, on CPU.

    python launch/local.py --processes=2 --devices=1 -- python -m kdjax.main ...

When one process fails, the others can only wait for it, so they are killed. Nothing is
restarted; run the same command again to resume.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NoReturn


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
                    print(f"launch: rank {rank} ended with {code}", file=sys.stderr)
                    status = status or (code if code > 0 else 128 - code)
                    deadline = min(deadline, time.monotonic() + grace)
        time.sleep(0.05)
    return status


def run(command: list[str], processes: int, devices: int, grace: float) -> int:
    """Returns 0 if every rank did, else the exit code of the first that failed."""
    # The handlers only record, so signals during start-up reach every rank too.
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: received.append(number))
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
    # By hand: argparse's handling of `--` differs between Python versions.
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options, command = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    if min(options.processes, options.devices) < 1:
        parser.error("--processes and --devices must be 1 or more")
    if not command:
        parser.error("no command: write it after `--`")
    if shutil.which(command[0]) is None:
        parser.error(f"command not found: {command[0]}")
    return run(command, **vars(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
