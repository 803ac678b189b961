"""Several processes, started by the launcher, compute what one process does."""

import json
import subprocess
import sys

import pytest
from runs import ROOT, command, environment, run, write_corpus


def test_two_processes_give_the_result_of_one_with_two_devices(tmp_path):
    write_corpus(tmp_path)
    one = (tmp_path, "one-process", "--config.baseline=False")
    run(*one, devices=2)
    two = command(tmp_path, "two-processes", "--config.baseline=False")
    launcher = [sys.executable, "launch/local.py", "--processes=2", "--devices=1", "--"]
    subprocess.run([*launcher, *two], cwd=ROOT, env=environment(), check=True)
    results = [
        json.loads((tmp_path / name / "student-0" / "result.json").read_text())
        for name in ("one-process", "two-processes")
    ]
    scores = [r["final"]["validation"]["cross_entropy"] for r in results]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
