"""Several processes, started by the launcher, compute what one process does."""

import json

from runs import TWO, environment, experiment, run, write_corpus


def test_two_processes_give_the_result_of_one_with_two_devices(tmp_path):
    write_corpus(tmp_path)
    one, two = (
        experiment(
            *(f"{tmp_path}/*.txt", tmp_path / name, "--config.baseline=False"),
            *(f"--config.cache_dir={tmp_path}/cache", "--config.evaluate.every=2"),
            *("--config.teacher.train.steps=4", "--config.student.train.steps=4"),
        )
        for name in ("one-process", "two-processes")
    )
    run(*one, env=environment(devices=2))
    said = run(*TWO, *two).stdout.splitlines()
    assert any(line.startswith("[0] data: train: ") for line in said)
    assert "[0] teacher: compiling ..." not in said  # it is in the cache
    assert "[0] student-0: compiling ..." in said
    others = [line for line in said if line.startswith("[1] ") and "Gloo" not in line]
    assert not others
    results = [
        json.loads((tmp_path / name / "student-0" / "result.json").read_text())
        for name in ("one-process", "two-processes")
    ]
    assert results[0]["final"] == results[1]["final"]
    assert results[0]["curve"] == results[1]["curve"]
