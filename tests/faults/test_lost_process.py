"""When one process of two is lost, the other ends too, without a launcher."""

import signal
import socket
import time

import pytest
import runs

pytestmark = pytest.mark.slow
PROGRAM = """
import os, signal, sys, time
from kdjax.core import cli
from kdjax.parallel.processes import join_processes
from kdjax.parallel.sharding import barrier

def main(argv):
    index = join_processes()
    barrier("begun")
    print("begun", flush=True)
    if index == int(argv[1]):
        {failure}
    {other}

cli.run(main, takes_arguments=True)
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
TOGETHER = 'barrier("next")'  # as in a step
ELSEWHERE = "time.sleep(300)"  # as on its way to a step


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize(
    ("failure", "other"),
    [
        (KILLED, TOGETHER),
        (KILLED, ELSEWHERE),
        ('raise RuntimeError("out of luck")', TOGETHER),
        ('raise RuntimeError("out of luck")', ELSEWHERE),
    ],
)
def test_the_other_process_ends_within_a_minute(tmp_path, lost, failure, other):
    script = tmp_path / "two.py"
    script.write_text(PROGRAM.format(failure=failure, other=other))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    ranks = [
        runs.start(
            *(script, lost),
            env=runs.environment(
                JAX_COORDINATOR_ADDRESS=address,
                JAX_COORDINATOR_BIND_ADDRESS=address,
                KDJAX_PROCESSES="2",
                KDJAX_PROCESS=str(index),
            ),
        )
        for index in range(2)
    ]
    try:
        for rank in ranks:
            while (line := rank.stdout.readline()) and line != "begun\n":
                pass
        begin = time.monotonic()
        codes = [rank.wait(timeout=100) for rank in ranks]
        assert time.monotonic() - begin < 60
        assert codes[lost] == (-signal.SIGKILL if failure == KILLED else 1)
        assert codes[1 - lost] not in (0, 2, 42)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
