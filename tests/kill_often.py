"""Kills trainings or experiments at random moments, and compares what comes out.

python tests/kill_often.py DIRECTORY KILLS [experiment]
"""

import importlib
import json
import os
import pathlib
import random
import signal
import sys
import time
import traceback

import runs
from toy_training import finish, make_program

import kdjax
from kdjax.config import default

# So that forks need not import it, which would take them longer than all else.
WARM = ("experiment.experiment", "report.page", "evaluation.held_out")
STEPS = 20
LOSS = "train/loss", "eval/cross_entropy"


def training(directory):
    """Trains the toy, and returns what came out."""
    return finish(make_program(STEPS), directory)


def experiment(directory):
    """Runs a small experiment from text to report, and returns what came out."""
    config = default()
    config.log_every, config.checkpoint.every = 1, 4
    config.cache_dir = str(directory / "cache")
    config.compile_cache = str(directory.parent / "compiled")
    config.data.update(source="files", pattern=f"{directory.parent}/texts/*.txt")
    config.data.update(length=32, validation_fraction=0.2)
    config.tokenizer.vocab_size = 300
    for model in (config.teacher, config.student):
        model.model.update(layers=1, width=16, heads=2)
        model.train.update(steps=STEPS, batch_size=4)
    config.evaluate.update(every=6, rows=8, final_rows=16, batch_size=8)
    kdjax.run(config, directory / "run")
    report = runs.read_report(directory / "run")
    found = [[run["role"], run["final"], run["curve"]] for run in report["runs"]]
    for path in sorted(directory.glob("**/metrics.jsonl")):
        lines = map(json.loads, path.read_text().splitlines())
        kept = [[line["step"], *map(line.get, LOSS)] for line in lines]
        found.append([path.parent.name, [line for line in kept if any(line[1:])]])
    return [report["data"], found]


def end_after(seconds, act, directory):
    """Acts in a fork for so long, and returns whether it came to its end."""
    child = os.fork()
    if not child:
        code = 1
        try:
            directory.mkdir(exist_ok=True)
            log = os.open(directory / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.dup2(log, 1)
            os.dup2(log, 2)
            (directory / "found.json").write_text(json.dumps(act(directory)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            assert status == 0, f"it ended by itself with {status}; see {directory}/log"
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main(directory, kills, act):
    """Kills runs until there were so many kills; every run goes on to its end."""
    draw, killed, different, number = random.Random(0), 0, 0, 0
    for name in WARM:
        importlib.import_module(f"kdjax.{name}")
    (directory / "texts").mkdir(parents=True)
    runs.write_texts(directory / "texts")
    assert end_after(600, act, directory / "compiling")
    began = time.monotonic()
    assert end_after(600, act, directory / "straight")
    usual = time.monotonic() - began
    straight = (directory / "straight" / "found.json").read_text()
    while killed < kills:
        number += 1
        place = directory / str(number)
        while not end_after(draw.uniform(0.0, 1.1) * usual, act, place):
            killed += 1
        different += (place / "found.json").read_text() != straight
        said = f"{killed} kills of {number} runs, {different} of them different"
        print(said, flush=True)


if __name__ == "__main__":
    what = experiment if sys.argv[3:] == ["experiment"] else training
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), what)
