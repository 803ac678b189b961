"""A whole experiment in a bucket: an S3 server on loopback, and boto3 as the judge.

It needs the extra "buckets".
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import runs

pytestmark = pytest.mark.slow
pytest.importorskip("moto")
pytest.importorskip("s3fs")
boto3 = pytest.importorskip("boto3")

CONFIG = runs.ROOT / "configs" / "gpt_debug.py"
CHANGES = (
    "--config.data.source=files",
    "--config.data.validation_fraction=0.2",
    "--config.student.train.steps=40",
)
BUCKET = "s3://bucket"
# What measures time, or says where something is.
VARIES = ("_second", "second", "cpu_", "created", "cost", "path", "checksum", "workdir")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A client of a server with one bucket, and the environment to reach it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H127.0.0.1", f"-p{port}"],
            stdout=out,
            stderr=out,
        )
    environment = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    client = boto3.Session("x", "x", region_name="us-east-1").client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL"]
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        client.create_bucket(Bucket="bucket")
        yield client, environment
    finally:
        server.terminate()
        server.wait()


def names(client, prefix=""):
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket="bucket", Prefix=prefix
    )
    return [each["Key"] for page in pages for each in page.get("Contents", ())]


def content(client, name):
    return client.get_object(Bucket="bucket", Key=name)["Body"].read()


def numbers(report):
    """Returns the results in a report but for times, places and what hashes them."""

    def kept(value):
        if isinstance(value, dict):
            return {
                key: kept(each)
                for key, each in value.items()
                if not any(part in key for part in VARIES)
            }
        return [kept(each) for each in value] if isinstance(value, list) else value

    found = kept(json.loads(report))
    # orbax names the files of parameters, which the hash of a teacher covers, anew.
    for teacher in found["teachers"].values():
        teacher.pop("sha256")
    for key in ("cache_dir", "data"):
        found["config"].pop(key)
    return found


def machine(tmp_path, name, environment):
    """Returns the environment of a machine whose disk is empty."""
    return runs.environment(
        HOME=str(tmp_path / name), XDG_CACHE_HOME=str(tmp_path / name), **environment
    )


def test_a_run_in_a_bucket_survives_its_machine(store, texts, tmp_path):
    client, environment = store
    for path in sorted(tmp_path.glob("home/texts/*.txt")):
        client.upload_file(str(path), "bucket", f"texts/{path.name}")
    run = ("-m", "kdjax.main", f"--config={CONFIG}", *CHANGES)
    runs.run(*run, "--config.data.pattern=texts/*.txt", "--workdir=local")

    there = (
        f"--config.data.pattern={BUCKET}/texts/*.txt",
        f"--config.cache_dir={BUCKET}/cache",
        f"--workdir={BUCKET}/run",
    )
    first = runs.start(*run, *there, env=machine(tmp_path, "one", environment))
    student = "run/student-0/checkpoints"
    while not names(client, f"{student}/20/manifest.json"):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    sealed = [n.split("/")[3] for n in names(client, student) if n.endswith("t.json")]
    newest = max(map(int, sealed))
    largest = max(
        names(client, f"{student}/{newest}/state"),
        key=lambda name: len(content(client, name)),
    )
    damaged = bytearray(content(client, largest))
    damaged[len(damaged) // 2] ^= 1
    client.put_object(Bucket="bucket", Key=largest, Body=bytes(damaged))
    made = {name: content(client, name) for name in names(client, "cache/rows")}
    second = runs.run(*run, *there, env=machine(tmp_path, "three", environment))
    assert f"checkpoints/{newest} cannot be used" in second.stderr
    assert f"student-0: resuming at step {newest - 10} of 40" in second.stderr
    assert made == {name: content(client, name) for name in names(client, "cache/rows")}

    report = content(client, "run/report/report.json")
    local = (tmp_path / "home" / "local" / "report" / "report.json").read_text()
    assert numbers(report) == numbers(local)
    assert json.loads(report)["workdir"] == f"{BUCKET}/run"
    assert "run/.lease" not in names(client)
    assert not [name for name in names(client) if name.endswith(".tmp")]
    assert not [p for p in os.listdir(tmp_path / "three/kdjax/buckets") if ".tmp" in p]


def test_the_other_commands_take_what_is_in_a_bucket(store, tmp_path, home):
    client, environment = store
    env = machine(tmp_path, "four", environment)

    def run(command, *arguments):
        return runs.run("-m", f"kdjax.{command}", *arguments, env=env).stdout

    assert f"{BUCKET}/run/report/report.html" in run("report", f"{BUCKET}/run")
    model = f"{BUCKET}/student"
    assert model in run("export", f"--workdir={BUCKET}/run", f"--to={model}")
    assert "student/model.safetensors" in names(client)
    run("generate", f"--checkpoint={model}", "--prompt=Once", "--max_tokens=2")
    output = f"--output={BUCKET}/metrics.json"
    run("evaluate", f"--checkpoint={model}", f"--data={BUCKET}/texts/", output)
    assert json.loads(content(client, "metrics.json"))
