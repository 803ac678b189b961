"""Two processes with nothing in common but a store, which both are killed in.

The store is fsspec's own view of a directory, which needs no server.
"""

import json
import os
import signal
import socket
import time

import pytest
import runs

pytestmark = pytest.mark.slow

STEPS = 40
KEPT = ("curve", "final", "steps", "tasks")  # of what was measured: all but times


def start(run, machines, store, *, port):
    """Starts a process on each of some machines, which have disks of their own."""
    known = {"KDJAX_PROCESSES": len(machines), "JAX_COORDINATOR_ADDRESS": port}
    return [
        runs.start(
            *run,
            env=runs.environment(
                devices=2 // len(machines),
                HOME=str(machine),
                XDG_CACHE_HOME=str(machine),
                FSSPEC_LOCAL_AUTO_MKDIR="true",
                KDJAX_PROCESS=str(index),
                **{key: str(each) for key, each in known.items()},
            ),
        )
        for index, machine in enumerate(machines)
    ]


def address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def end(processes):
    said = [process.communicate(timeout=600) for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors
    return said[0][1]


def kill(processes, path):
    """Kills processes once there is a file."""
    try:
        while not path.exists():
            for process in processes:
                assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()


def measured(workdir):
    return [
        {key: run.get(key) for key in ("role", "seed", *KEPT)}
        for run in json.loads((workdir / "report" / "report.json").read_text())["runs"]
    ]


def test_processes_without_a_shared_disk_compute_what_one_process_does(tmp_path):
    (tmp_path / "texts").mkdir()
    runs.write_corpus(tmp_path / "texts")

    def command(workdir, cache):
        return runs.experiment(
            *(f"{tmp_path}/texts/*.txt", workdir, "--config.mesh.fsdp=2"),
            *(f"--config.cache_dir={cache}", f"--config.student.train.steps={STEPS}"),
            f"--config.compile_cache={tmp_path}/compiled",
        )

    runs.run(*command(tmp_path / "local", tmp_path / "cache"), env=runs.environment(2))
    store = tmp_path / "store"
    run = command(f"local://{store}/run", f"local://{store}/cache")
    machines = [tmp_path / name for name in "abcde"]
    teacher, student = (store / "run" / name for name in ("teacher", "student-0"))

    kill(
        start(run, machines[:2], store, port=address()),
        teacher / "checkpoints" / "10" / "manifest.json",
    )
    begun = start(run, machines[2:4], store, port=address())
    kill(begun, student / "checkpoints" / "20" / "manifest.json")
    manifest = student / "checkpoints" / "20" / "manifest.json"
    names = json.loads(manifest.read_text())["files"]
    assert any(name.endswith("/1.0") or name.endswith("/0.1") for name in names)
    (lease,) = store.glob("run/.lease")
    lease.unlink()  # rather than wait for a minute: another machine's owner
    said = end(start(run, machines[4:], store, port=address()))
    assert "teacher: loaded from" in said
    assert "student-0: resuming at step" in said

    assert measured(store / "run") == measured(tmp_path / "local")
    for machine in machines[4:]:
        assert not [*machine.glob("kdjax/buckets/*.tmp")]
    assert not os.path.exists(store / "run" / ".lease")
