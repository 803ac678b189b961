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


TOY = """
import json, os, signal, sys
import numpy as np
from kdjax.parallel.processes import join_processes
rank = join_processes()
import toy_training as toy
from jax.experimental.multihost_utils import process_allgather
from kdjax.checkpoints import native
from kdjax.core.mirrors import mirrored, pull
from kdjax.parallel.apart import are_apart
toy.evaluate = lambda params: dict.fromkeys(
    ("cross_entropy", "bits_per_byte"), float(whole(params).sum())
)
whole = lambda params: np.asarray(process_allgather(params["w"], tiled=True))
place, at = sys.argv[1], int(sys.argv[2])
program = toy.make_program(8, ("data",))
with mirrored(place) as directory:
    assert are_apart(directory) == (toy.jax.process_count() > 1)
    pull(directory, lambda name: "checkpoints" not in name.split("/"))
    if at:
        toy.stop_at(at, program, directory, (signal.SIGKILL,))
    result = toy.train(program, toy.make_run(program, directory), toy.EVERY_TWO, 1)
    found = [whole(result.params).tolist(), toy.metrics(directory)]
    card = {"model": {}, "tokenizer": "", "end_of_text": ""}
    for _ in range(2):  # the second takes the first one's place
        native.save_model(directory / "model", result.params, card)
    loaded = native.load_params(directory / "model", toy.jax.tree.map(
        lambda x: toy.jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        result.params,
    ))
    assert (whole(loaded) == whole(result.params)).all()
    assert native.load_card(directory / "model")["params"] == "params-2"
print(json.dumps(found))
"""


def start(run, machines):
    """Starts a process on each of some machines, which have disks of their own."""
    known = {"KDJAX_PROCESSES": len(machines), "JAX_COORDINATOR_ADDRESS": address()}
    return [
        runs.start(
            *run,
            env=runs.environment(
                devices=2 // len(machines),
                HOME=str(machine),
                XDG_CACHE_HOME=str(machine),
                PYTHONPATH=f"{runs.ROOT}:{runs.ROOT / 'tests'}",
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


def test_a_run_of_parts_resumes_with_any_number_of_processes(tmp_path):
    def train(machines, place, at=0):
        (tmp_path / "local").mkdir(exist_ok=True)
        done = start(("-c", TOY, place, at), [tmp_path / name for name in machines])
        said = [process.communicate(timeout=300) for process in done]
        codes = {process.returncode for process in done}
        # One whose peer was killed first is ended by jax.
        assert -signal.SIGKILL in codes if at else codes == {0}, said
        return [output.splitlines()[-1:] for output, _ in said]

    store = f"local://{tmp_path}/store/run"
    straight = train("a", tmp_path / "local")
    train("bc", store, at=5)
    assert [*tmp_path.glob("store/run/checkpoints/2/state/params.w/0")]
    assert [*tmp_path.glob("store/run/checkpoints/2/state/params.w/1")]
    train("de", store, at=7)
    train("f", store, at=8)
    assert train("gh", store) == straight * 2


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
        start(run, machines[:2]),
        teacher / "checkpoints" / "10" / "manifest.json",
    )
    begun = start(run, machines[2:4])
    kill(begun, student / "checkpoints" / "20" / "manifest.json")
    manifest = student / "checkpoints" / "20" / "manifest.json"
    names = json.loads(manifest.read_text())["files"]
    assert any(name.endswith("/1.0") or name.endswith("/0.1") for name in names)
    (lease,) = store.glob("run/.lease")
    lease.unlink()  # rather than wait for a minute: another machine's owner
    said = end(start(run, machines[4:]))
    assert "teacher: loaded from" in said
    assert "student-0: resuming at step" in said

    assert measured(store / "run") == measured(tmp_path / "local")
    for machine in machines[4:]:
        assert not [*machine.glob("kdjax/buckets/*.tmp")]
    assert not os.path.exists(store / "run" / ".lease")


def test_a_teacher_in_the_cache_of_one_of_several_machines_is_refused(tmp_path):
    (tmp_path / "texts").mkdir()
    runs.write_corpus(tmp_path / "texts")
    run = runs.experiment(
        *(f"{tmp_path}/texts/*.txt", f"local://{tmp_path}/store/run"),
        f"--config.cache_dir={tmp_path}/cache",
    )
    begun = start(run, [tmp_path / name for name in "ab"])
    said = [process.communicate(timeout=300)[1] for process in begun]
    assert [process.returncode for process in begun] == [2, 2], said
    assert said[0].splitlines()[-1].endswith("set config.cache_dir to a bucket as well")
    assert "Traceback" not in "".join(said)
