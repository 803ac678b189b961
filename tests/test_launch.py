"""The local launcher: what each rank is told, and that no rank outlives another."""

import os
import signal
import sys
import time

import pytest
import runs
from runs import LAUNCHER


def arguments(options, program):
    command = [] if program is None else ["--", sys.executable, "-c", program]
    return [LAUNCHER, *options, *command]


# What the ranks are told must come from the launcher: it is told nothing itself.
def start(*options, program=None):
    return runs.start(*arguments(options, program), env=os.environ)


def launch(*options, program=None):
    done = runs.run(
        *arguments(options, program), env=os.environ, timeout=30, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_each_rank_is_told_who_it_is_and_one_loopback_address():
    program = """
import os
for name in ("KDJAX_PROCESS", "KDJAX_PROCESSES", "JAX_COORDINATOR_ADDRESS",
             "JAX_COORDINATOR_BIND_ADDRESS", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES"):
    print(name, os.environ[name])
"""
    code, output, _ = launch("--processes=3", "--devices=2", program=program)
    assert code == 0
    told = [{}, {}, {}]
    for line in output.splitlines():
        prefix, name, value = line.split()
        told[int(prefix.strip("[]"))][name] = value
    assert [rank.pop("KDJAX_PROCESS") for rank in told] == ["0", "1", "2"]
    assert told[0] == told[1] == told[2]
    address = told[0].pop("JAX_COORDINATOR_ADDRESS")
    assert told[0].pop("JAX_COORDINATOR_BIND_ADDRESS") == address
    host, port = address.split(":")
    assert host == "127.0.0.1" and int(port) >= 1024
    assert told[0] == {
        "KDJAX_PROCESSES": "3",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
    }


# `failure` is what rank 1 does while rank 0, and a worker of each, would sleep on. The
# workers hold the output pipes: were one to survive, the launcher could not end.
@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ("sys.exit('out of luck')", 1),
        ("sys.exit(7)", 7),
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
    ],
)
def test_a_failing_rank_takes_the_others_and_their_workers_along(failure, expected):
    program = f"""
import os, signal, subprocess, sys, time
subprocess.Popen(["sleep", "60"])
if os.environ["KDJAX_PROCESS"] == "1":
    {failure}
time.sleep(60)
"""
    begin = time.monotonic()
    code, output, errors = launch("--grace=0.1", program=program)
    assert time.monotonic() - begin < 20
    assert code == expected
    assert ("[1] out of luck" in output) == (expected == 1)
    assert errors.startswith("launch: rank 1 ended with")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_rank_and_nothing_starts_again(number):
    program = f"""
import signal, sys, time
def stop(*_):
    print("stopping")
    sys.exit(0)
signal.signal({int(number)}, stop)
print("ready")
time.sleep(60)
"""
    process = start(program=program)
    assert sorted(process.stdout.readline() for _ in range(2)) == [
        "[0] ready\n",
        "[1] ready\n",
    ]
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert sorted(output.splitlines()) == ["[0] stopping", "[1] stopping"]


def test_a_second_interrupt_ends_ranks_that_ignore_the_first():
    program = """
import signal, time
signal.signal(signal.SIGINT, lambda *_: print("no"))
print("ready")
time.sleep(60)
"""
    process = start("--processes=1", program=program)
    assert process.stdout.readline() == "[0] ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "[0] no\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize(
    ("options", "program", "message"),
    [
        (["--processes=0"], "pass", "--processes and --devices must be 1 or more"),
        (["--devices=0"], "pass", "--processes and --devices must be 1 or more"),
        (["--processes=two"], "pass", "invalid int value: 'two'"),
        (["--restarts=1"], "pass", "unrecognized arguments: --restarts=1"),
        (["--processes=2"], None, "no command"),
        (["--processes=2", "--"], None, "no command"),
        (["--", "no-such-command"], None, "command not found: no-such-command"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(options, program, message):
    code, output, errors = launch(*options, program=program)
    assert (code, output) == (2, "")
    assert message in errors and errors.count("\n") == 1
