"""Several processes, started by the launcher, compute what one process does."""

import json

import pytest
from runs import TWO, environment, experiment, run, write_corpus


def test_two_processes_give_the_result_of_one_with_two_devices(tmp_path):
    write_corpus(tmp_path)
    one, two = (
        experiment(
            *(f"{tmp_path}/*.txt", tmp_path / name, "--config.baseline=False"),
            f"--config.cache_dir={tmp_path}/cache",
        )
        for name in ("one-process", "two-processes")
    )
    run(*one, env=environment(devices=2))
    run(*TWO, *two)
    results = [
        json.loads((tmp_path / name / "student-0" / "result.json").read_text())
        for name in ("one-process", "two-processes")
    ]
    scores = [r["final"]["validation"]["cross_entropy"] for r in results]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
