"""Commands of points: as the programs that will read them read them."""

import json
import pathlib
import re
import shlex
import subprocess

import pytest
import runs
from runs import ROOT

from kdjax.sweeps import base_flags
from kdjax.sweeps.commands import as_flag

DEBUG = f"--config={ROOT}/configs/gpt_debug.py"
pytestmark = pytest.mark.usefixtures("home")
HARD = "distill.temperature=[2, {'start': 4.0, 'end': 1.0}]"


def sweep(*arguments, words=""):
    said = runs.run("-m", "kdjax.sweep", DEBUG, *arguments, check=False, timeout=120)
    if words:
        assert said.returncode == 2, said.stdout
        assert words in said.stderr
        assert said.stderr.count("\n") == 1, said.stderr
    else:
        assert said.returncode == 0, said.stderr
    return said.stdout


def stub(home):
    """Makes a `python` that prints its arguments, one a line."""
    (home / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (home / "python").chmod(0o755)
    return {"PATH": f"{home}:/usr/bin:/bin"}


def test_a_slurm_array_runs_each_point_by_its_index(home):
    arguments = "--set", HARD, "--set=seed=[0, 1]", "--config.baseline=False"
    script = sweep(*arguments, "--commands=slurm", "--workers=3", "--workdir=a b")
    assert "#SBATCH --array=0-3%3" in script.splitlines()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    shown = sweep(*arguments, "--commands=plain", "--workdir=a b").splitlines()
    for index, line in enumerate(shown):
        env = stub(home) | {"SLURM_ARRAY_TASK_ID": str(index)}
        said = subprocess.run(
            ["bash"], input=script, env=env, capture_output=True, text=True, check=True
        )
        assert ["python", *said.stdout.splitlines()] == shlex.split(line)
    env = stub(home) | {"SLURM_ARRAY_TASK_ID": "4"}
    beyond = subprocess.run(["bash"], input=script, env=env, text=True, check=False)
    assert beyond.returncode == 2


def test_a_kubernetes_job_has_an_index_for_each_point(home):
    where = "--workdir=/sweep/t", "--config.cache_dir=/sweep/t/cache"
    text = sweep("--set", HARD, "--commands=kubernetes", "--image=me/kdjax:1", *where)
    job = json.loads(text)
    assert job["kind"] == "Job" and job["metadata"]["name"] == "t"
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == 2
    (container,) = spec["template"]["spec"]["containers"]
    assert container["image"] == "me/kdjax:1"
    env = stub(home) | {"JOB_COMPLETION_INDEX": "1"}
    said = subprocess.run(
        container["command"], env=env, capture_output=True, text=True, check=True
    )
    kind = {"kind": "linear", "start": 4.0, "end": 1.0}
    assert f"--config.distill.temperature={kind}" in said.stdout.splitlines()
    assert not (home / "sweep").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--commands=kubernetes"], "needs --image"),
        (["--commands=kubernetes", "--image=i"], "needs --workdir=/PATH"),
        (
            ["--commands=kubernetes", "--image=i", "--workdir=/s"],
            "--config.cache_dir=/s/cache",
        ),
        (["--commands=slurm", "--halving=2"], "no fixed commands"),
        (["--halving=1"], "--halving must be 2 or more"),
        (["--halving=2", "--set=student.train.steps=[1, 2]"], "cannot be swept too"),
        (["--halving=21"], "needs 21 steps"),
        (
            ["--config.teacher.path=nowhere"],
            "seed=0-bd048884: config.teacher.path=nowhere does not exist",
        ),
        (["--workers=0"], "--workers must be at least 1"),
        (["--samples=-1"], "--samples must be at least 0"),
        (["--commands=cron"], "commands"),
        (["--sets=seed=1"], "sets"),
        (["--config.seed=3"], "--config.seed sets what is swept (seed)"),
        (["--flagfile=flags.txt"], "no --flagfile"),
    ],
)
def test_flags_that_cannot_be_are_refused(arguments, words):
    pathlib.Path("flags.txt").write_text("--config.seeds=2\n")
    sweep("--set=seed=[0, 1]", *arguments, words=words)


def test_flags_in_two_words_are_the_base_config_s_too():
    where = "--config", "kdjax:gpt_debug", "--config.mesh.data", "-1"
    flags = "--noconfig.baseline", "--config.seeds", "2", "--set", "seed=[5]"
    said = runs.run("-m", "kdjax.sweep", *where, *flags, "--commands=plain")
    assert shlex.split(said.stdout)[3:-2] == [
        *("--config=kdjax:gpt_debug", "--config.mesh.data=-1", "--noconfig.baseline"),
        *("--config.seeds=2", "--config.seed=5"),
    ]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--noconfig.baseline"], ["--noconfig.baseline"]),
        (["--config.baseline"], ["--config.baseline"]),
        # Of a config file with baseline = "both", whose flag takes a value.
        (["--config.baseline", "False"], ["--config.baseline=False"]),
    ],
)
def test_a_switch_that_may_be_a_word_takes_no_other_flag(given, read):
    argv = ["--config=x.py", *given, "--set=seed=[5]"]
    assert base_flags.read(argv) == ("--config=x.py", *read)


def test_a_dry_run_counts_what_is_shared_once():
    said = sweep("--set=seed=[0, 1]", "--set=distill.alpha=[0.5, 1]", "--dry_run")
    assert re.search(r"once each: 1 teacher .*, 2 twins .*, 4 students", said)
    assert said.count("unknown") == 6
    # A student of 9,264 parameters: 3 x its forward pass and the teacher's, by hand.
    rows = 20 * 8 * 256
    student = 2 * (16 * (4 * 16 + 3 * 64) + 16 * 257) + 4 * 256 * 16
    teacher = 2 * (2 * 32 * (4 * 32 + 3 * 128) + 32 * 257) + 4 * 256 * 32 * 2
    assert f" {rows * (3 * student + teacher):.2e} " in said
    said = sweep("--set=seed=[0, 1]", "--dry_run", "--flops_per_second=1e9")
    assert " 10 s" in said
    sizes = "--set=teacher.model.width=[32, 64]", "--set=distill.alpha=[0.5, 1]"
    said = sweep(*sizes, "--config.baseline=both", "--dry_run")
    # More FLOPs of the teacher pay for more steps of its twin.
    assert re.search(r"2 teachers .*, 1 twin .*, 2 equal-compute twins .*, 4 st", said)
    said = sweep("--set=seed=[0, 1, 2]", "--dry_run", "--halving=3")
    assert "3 x 7, 1 x 20, 57% of the students' FLOPs" in said
    said = sweep(
        "--set=teacher.path=['org/name', 'org/other']",
        *("--dry_run", "--config.tokenizer.kind=file", "--config.tokenizer.path=org/n"),
    )
    assert "unknown until the models' sizes are" in said


def test_every_kind_of_value_reaches_the_config_as_it_was_bound(home):
    """`kdjax.main` reads the printed flags, and makes the same config of them."""
    values = {
        "distill.temperature": "[{'kind': 'cosine', 'start': 4.0, 'end': 1.0}]",
        "distill.alpha": "[1]",
        "student.train.optimizer.learning_rate": "[1e-05]",
        "student.train.optimizer.nesterov": "[False]",
        "student.train.optimizer.name": "[muon]",
        "teacher.model.norm": "[layernorm]",
        "student.rules": "[(('mlp/up/kernel$', (None, 'fsdp', None)),)]",
        "evaluate": "[{'every': 5, 'rows': 16, 'final_rows': 3, 'batch_size': 8}]",
        "checkpoint.keep": "[1]",
        "data.pattern": "['a b/*.txt']",
        "data.source": "[files]",
    }
    sets = [f"--set={key}={value}" for key, value in values.items()]
    (line,) = sweep(*sets, "--commands=plain", "--workdir=s").splitlines()
    (home / "show.py").write_text(
        "import json, sys\n"
        "from absl import app\n"
        "import kdjax.main as door\n"
        "from kdjax.config import validate\n"
        "from kdjax.sweeps.bindings import plain\n"
        "app.run(lambda argv: print(json.dumps(plain(validate(door._CONFIG.value)))))\n"
    )
    flags = [f for f in shlex.split(line)[3:] if not f.startswith("--shared")]
    found = json.loads(runs.run("show.py", *flags).stdout)
    index = json.loads((home / "s" / "sweep.json").read_text())
    for key, value in index["points"][0]["overrides"].items():
        place = found
        for name in key.split("."):
            place = place[name]
        assert place == value, key
    assert found["evaluate"]["final_rows"] == 3
    assert as_flag([["a", [None, "b"]]]) == "(('a', (None, 'b')),)"
