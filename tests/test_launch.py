"""Starting: what each rank is told, and that no rank outlives another."""

import os
import signal
import sys
import time

import pytest
import runs
from runs import LAUNCHER

from kdjax.core import leaving
from kdjax.core.errors import UsageError
from kdjax.parallel import processes


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
    code, output, errors = launch("--grace=0.1", "--retries=0", program=program)
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
    sys.exit(42)  # saved: it would start again
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
    assert process.returncode == 42
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


# Fails at every start. Before, it makes the checkpoints that its arguments say, one
# more at each start.
FAILING = """
import os, pathlib, sys
place, code = pathlib.Path(sys.argv[1].partition("=")[2]), int(sys.argv[2])
with open(place / "starts.txt", "a") as starts:
    print(os.environ["JAX_COORDINATOR_ADDRESS"], file=starts)
for step in sys.argv[3:][: len((place / "starts.txt").read_text().splitlines())]:
    (place / "student-0" / "checkpoints" / step).mkdir(parents=True, exist_ok=True)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("code", "steps", "starts"),
    [
        (1, [], 2),  # the restart brought no progress
        (1, [10, 20], 3),  # two starts brought some
        (1, [10, 10, 20], 2),  # the same checkpoint once more is none
        (42, [], 2),
        (2, [10, 20], 1),  # a mistake stays one
        (130, [10, 20], 1),  # as does Ctrl-C
    ],
)
def test_all_start_again_as_long_as_that_brings_progress(tmp_path, code, steps, starts):
    program = (*("--", sys.executable, "-c", FAILING), f"--workdir={tmp_path}")
    options = ("--processes=1", "--retries=1", "--pause=0")
    found, _, errors = launch(*options, *program, code, *steps)
    assert found == code
    addresses = (tmp_path / "starts.txt").read_text().splitlines()
    assert len(addresses) == len({*addresses}) == starts
    assert errors.count("starting all again") == starts - 1
    assert ("no progress in 1 restart(s)" in errors) == (code in (1, 42))


@pytest.mark.parametrize(
    ("options", "program", "message"),
    [
        (["--processes=0"], "pass", "--processes and --devices must be 1 or more"),
        (["--devices=0"], "pass", "--processes and --devices must be 1 or more"),
        (["--processes=two"], "pass", "invalid int value: 'two'"),
        (["--restarts=1"], "pass", "unrecognized arguments: --restarts=1"),
        (["--retries=-1"], "pass", "--retries must be 0 or more"),
        (["--processes=2"], None, "no command"),
        (["--processes=2", "--"], None, "no command"),
        (["--", "no-such-command"], None, "command not found: no-such-command"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(options, program, message):
    code, output, errors = launch(*options, program=program)
    assert (code, output) == (2, "")
    assert message in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, True),
        ({"KDJAX_PROCESSES": "2", "KDJAX_PROCESS": "0", "SLURM_PROCID": "1"}, True),
        ({"KDJAX_PROCESSES": "2", "KDJAX_PROCESS": "1"}, False),
        ({"SLURM_PROCID": "1"}, False),
        ({"KDJAX_PROCESSES": "1", "SLURM_PROCID": "1"}, True),  # a point of a sweep
    ],
)
def test_the_first_process_knows_it_before_it_joins(told, expected):
    assert leaving.is_first(told) == expected


# What srun tells the tasks of a step, here the first of two on two nodes.
TASK = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_GPUS_ON_NODE": "4",
}


@pytest.mark.parametrize(
    ("changes", "is_alone", "says"),
    [
        ({}, False, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, True, False),  # srun --ntasks=1
        ({"SLURM_STEP_ID": ""}, True, True),  # a batch script
        ({"SLURM_STEP_ID": "4294967290"}, True, True),  # a shell that salloc opened
        ({"SLURM_STEP_ID": "", "SLURM_NTASKS": "1"}, True, False),
        ({"SLURM_STEP_ID": "", "KDJAX_PROCESSES": "2"}, False, False),
        ({"SLURM_STEP_ID": "", "OMPI_COMM_WORLD_RANK": "0"}, False, False),
    ],
)
def test_a_process_without_a_step_of_slurm_waits_for_none(
    changes, is_alone, says, capsys
):
    assert processes.is_no_slurm_task(TASK | changes) == is_alone
    note = capsys.readouterr().err
    assert note.count("\n") == says and ("put srun before" in note) == says


def test_one_task_on_a_node_has_all_of_its_gpus():
    assert processes.slurm_devices(TASK) == [0, 1, 2, 3]
    for changes in (
        {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"},  # jax gives each its own
        {"JAX_LOCAL_DEVICE_IDS": "0,1"},
        {"SLURM_GPUS_ON_NODE": ""},
    ):
        assert processes.slurm_devices(TASK | changes) is None


@pytest.mark.parametrize(
    ("count", "index", "message"),
    [
        ("two", "0", "KDJAX_PROCESSES='two' and KDJAX_PROCESS='0' must be"),
        ("2", "", "KDJAX_PROCESS=''"),
        ("2", "2", "KDJAX_PROCESS='2'"),
        ("2", "1", "needs JAX_COORDINATOR_ADDRESS=HOST:PORT"),
    ],
)
def test_a_mistake_in_the_environment_is_told(count, index, message, monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    monkeypatch.setenv("KDJAX_PROCESSES", count)
    monkeypatch.setenv("KDJAX_PROCESS", index)
    with pytest.raises(UsageError, match=message):
        processes.join_processes()


def test_what_is_told_to_be_alone_joins_nobody(monkeypatch):
    """As the points of a sweep whose own process is one of several tasks."""
    for name, value in (TASK | {"KDJAX_PROCESSES": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delattr(processes.jax.distributed, "initialize")
    assert processes.join_processes() == 0


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (SystemExit(2), 2),
        (SystemExit("out of luck"), 1),
        (RuntimeError("out of luck"), 1),
        (SystemExit(0), None),
        (SystemExit(42), None),  # all save together, and leave together
    ],
)
def test_one_of_several_that_fails_does_not_wait_for_the_others(
    failure, status, monkeypatch
):
    def main(argv):
        raise failure

    def end(code):
        raise InterruptedError(code)  # stands for no return

    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(type(failure)):
        leaving.promptly(main)([])  # alone: Python's own exit
    monkeypatch.setattr(leaving, "_index", 1)
    with pytest.raises(InterruptedError if status else type(failure)) as caught:
        leaving.promptly(main)([])
    assert not status or caught.value.args == (status,)
