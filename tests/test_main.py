"""The command line: a mistake is one line and exit code 2, told before work begins."""

import dataclasses
import json
import pathlib
import resource

import pytest
import runs
from etils import epath
from runs import ROOT

from kdjax.config import Config, ModelConfig
from kdjax.config import default as default_config
from kdjax.config.validation import validate
from kdjax.experiment import workdir

DEBUG = f"--config={ROOT}/configs/gpt_debug.py"

pytestmark = pytest.mark.usefixtures("home")


def run(*arguments, python=("-m", "kdjax.main")):
    # So that stderr shows whether anything was compiled.
    env = runs.environment(JAX_LOG_COMPILES="1")
    return runs.run(*python, *arguments, env=env, timeout=60, check=False)


def mistake(*arguments):
    """Runs the command and returns the one line that it must end with.

    Lines about stages that came before the mistake showed may precede it.
    """
    done = run(*arguments)
    *before, last = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert last.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert "ompili" not in done.stderr and "compilation" not in done.stderr
    assert not [line for line in before if line.startswith(("error", "W", "E"))]
    assert done.stdout == ""
    return before, last


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--config is missing"]),
        (["--config"], ["--config"]),
        (["--config=nowhere.py"], ["nowhere.py"]),
        (["--config=nowhere.py", "--config.seed=3"], ["nowhere.py"]),
        (["--config=broken.py"], ["broken.py, line 1"]),
        (["--config=plain.py"], ["get_config", "ConfigDict"]),
        (["--config=none.py"], ["get_config", "None"]),
        (["--config=empty.py"], ["empty.py has no get_config()"]),
        (["--config=takes.py"], ["takes.py:ARGUMENT"]),
        (["--config=config.json"], ["config.json is not a Python file"]),
        (["--config=."], ["is not a Python file"]),
        (["--config=gpt_small"], ["--config=gpt_small does not exist"]),
        (["--config="], ["--config is missing"]),
        (["--config.seed=3"], ["--config is missing"]),
        ([DEBUG, "--config=plain.py"], ["given twice"]),
        ([f"{DEBUG}:scarce"], ["gpt_debug.py takes no argument", "'scarce'"]),
        ([f"--config={ROOT}/configs/gpt_small.py:scarse"], ["scarse"]),
        ([DEBUG, "--wrkdir=x"], ["wrkdir", "workdir"]),
        ([DEBUG, "stray"], ["stray", "--"]),
        ([DEBUG, "--overwrite=perhaps"], ["overwrite"]),
        ([DEBUG, "--profile=15:10"], ["FIRST:LAST", "15:10"]),
        ([DEBUG, "--config.profile=10"], ["FIRST:LAST", "'10'"]),
        ([DEBUG, "--profile=10:21"], ["10:21", "the student's last step, 20"]),
        # Keys that do not exist, with the nearest that does.
        ([DEBUG, "--config.studnet.model.width=3"], ["studnet", "student"]),
        ([DEBUG, "--config.sed=3"], ["sed", "seed"]),
        ([DEBUG, "--config.distill.tempratur=3"], ["tempratur", "temperature"]),
        ([DEBUG, "--config.distill.temp=3"], ["config.distill.temp ", "temperature"]),
        (
            [DEBUG, "--config.temperature=3"],
            ["config.temperature ", "did you mean config.distill.temperature?"],
        ),
        ([DEBUG, "--config.steps=3"], ["config.student.train.steps?"]),
        ([DEBUG, "--config.clearml=True"], ["config.clearml ", "keys here are seed, "]),
        ([DEBUG, "--config.mesh.data.x=3"], ["config.mesh.data has no keys", "'x'"]),
        ([DEBUG, "--config.student.layer_map[0]=3"], ["layer_map[0]", "as a whole"]),
        ([DEBUG, "--config.teachers.a.seed=3"], ["config.teachers.a.seed", "no 'a'"]),
        (
            [DEBUG, "--config.distill.temperature.start=4"],
            ["config.distill.temperature is a number", "{'kind': 'linear', 'start': "],
        ),
        # Wrong types, which ml_collections finds, and wrong values, which we find.
        ([DEBUG, "--config.distill.alpha=half"], ["config.distill.alpha", "'half'"]),
        ([DEBUG, "--config.seed=1.5"], ["config.seed", "1.5"]),
        ([DEBUG, "--config.distill.beta=True"], ["config.distill.beta must", "'True'"]),
        ([DEBUG, "--config.baseline=perhaps"], ["config.baseline", "perhaps"]),
        ([DEBUG, "--config.distill=3"], ["config.distill", "3"]),
        ([DEBUG, "--config.distill.alpha=1.5"], ["config.distill.alpha", "[0, 1]"]),
        ([DEBUG, "--config.distill.temperature=0"], ["config.distill.temperature"]),
        ([DEBUG, "--config.student.train.batch_size=9", "--config.mesh.data=2"], ["9"]),
        ([DEBUG, "--config.student.model.heads=3"], ["config.student.model.heads"]),
        ([DEBUG, "--config.student.model.positions=learned"], ["max_length = 0"]),
        ([DEBUG, "--config.data.source=files"], ["config.data.pattern"]),
    ],
    ids=lambda value: " ".join(value).replace(f"{ROOT}/configs/", ""),
)
def test_a_mistake_that_shows_at_once_is_a_single_line(arguments, words):
    pathlib.Path("broken.py").write_text("def get_config(:\n")
    pathlib.Path("plain.py").write_text("def get_config():\n    return {'seed': 1}\n")
    pathlib.Path("none.py").write_text("def get_config():\n    pass\n")
    pathlib.Path("takes.py").write_text("def get_config(size):\n    pass\n")
    pathlib.Path("empty.py").touch()
    pathlib.Path("config.json").write_text('{"baseline": true}')
    before, line = mistake(*arguments)
    assert before == []
    for word in words:
        assert word in line
    assert not pathlib.Path("runs").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "config.student.trian.steps = 3",
            "'trian' does not exist; did you mean train",
        ),
        ("config.seed.x = 3", "'int' object has no attribute 'x'"),
        ("config.student.update(modle={})", "did you mean model?"),
        (
            "config['clearml'] = True",
            "'clearml' does not exist; the keys here are",
        ),
        ("config.teachers.wide = {}", "assign the mapping as a whole"),
        ("config.distill.alpha.end = 0.5", "{'kind': 'linear', 'start': 1.0, 'end': "),
        ("open('corpus.txt')", "'corpus.txt'"),
        ("import numpyy", "No module named 'numpyy'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("int('x')", "ValueError: invalid literal for int()"),
        ("raise KeyError", "KeyError"),
        ("raise TypeError('two\\nlines')", "TypeError: two"),
        ("raise RuntimeError('long' * 999)", "RuntimeError: longlong"),
    ],
)
def test_what_a_config_file_raises_is_a_line_with_its_place(line, words, home):
    text = "from kdjax.config import default\n\n\ndef get_config():\n"
    text += f"    config = default()\n    {line}\n    return config\n"
    (home / "mine.py").write_text(text)
    for override in ([], ["--config.seed=3"]):
        before, found = mistake("--config=mine.py", *override)
        assert before == [] and len(found) < 700
        assert found.startswith(f"error: mine.py, line 6, {line!r}: ")
        assert words in found


def test_a_schedule_can_be_given_and_taken_back_by_a_flag(home):
    (home / "mine.py").write_text(
        "from kdjax.config import default\n\n\ndef get_config():\n"
        "    config = default()\n    config.distill.alpha = {'start': 0.5}\n"
        "    return config\n"
    )
    schedule = "--config.distill.temperature={'start': 4, 'end': -1}"
    _, line = mistake("--config=mine.py", "--config.distill.alpha=0.5", schedule)
    assert (
        line == "error: config.distill.temperature must be in [0.001, 1000]; it is -1"
    )
    _, line = mistake("--config=mine.py", "--config.distill.alpha.start=2")
    assert line == "error: config.distill.alpha must be in [0, 1]; it is 2"
    _, line = mistake("--config=mine.py", "--config.distill.alpha=2")
    assert line == "error: config.distill.alpha must be in [0, 1]; it is 2"


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/nope"])
def test_a_workdir_that_cannot_be_written_is_a_single_line(place):
    pathlib.Path("file").write_text("")
    before, line = mistake(DEBUG, f"--workdir={place}")
    assert before == []
    assert place in line and "choose another --workdir" in line


@pytest.mark.parametrize(
    ("override", "also", "words"),
    [
        ("teacher.path=nowhere", [], "teacher.path=nowhere does not exist"),
        ("teacher.path=https://x.org/m", [], "teacher.path=https://x.org/m is a web"),
        ("student.path=nowhere", [], "student.path=nowhere does not exist"),
        (
            "tokenizer.path=no.json",
            ["--config.tokenizer.kind=file"],
            "tokenizer.path=no.json does not exist",
        ),
        (
            "data.pattern=no/*.txt",
            ["--config.data.source=files"],
            "data.pattern = 'no/*.txt' matches no .txt",
        ),
        (
            "evaluate.tasks=('no.jsonl',)",
            [],
            "evaluate.tasks: no.jsonl does not exist",
        ),
    ],
)
def test_a_path_that_leads_nowhere_is_told_before_anything_slow_is_imported(
    override, also, words
):
    arguments = ["kdjax", DEBUG, f"--config.{override}", *also]
    call = (
        f"import runpy, sys\nsys.argv = {arguments}\n"
        "try:\n    runpy.run_module('kdjax.main', run_name='__main__')\n"
        "except SystemExit as left:\n    print(left.code, *sys.modules)\n"
    )
    found = runs.run("-c", call)
    status, *modules = found.stdout.split()
    assert status == "2" and words in found.stderr
    slow = {
        "jax",
        "orbax",
        "grain",
        "tokenizers",
        "tensorflow_datasets",
        "kdjax.report",
    }
    assert not slow & set(modules)
    assert not pathlib.Path("runs").exists()


def test_run_as_well_tells_it_before_anything_slow_is_imported():
    call = (
        "import sys, kdjax\n"
        "config = kdjax.load_config('kdjax:gpt_debug')\n"
        "config.teacher.path = 'nowhere'\n"
        "try:\n    kdjax.run(config, 'run')\n"
        "except Exception as error:\n    print(error, file=sys.stderr)\n"
        "print(*sys.modules)\n"
    )
    found = runs.run("-c", call)
    assert "config.teacher.path=nowhere does not exist" in found.stderr
    assert not {"jax", "orbax", "grain"} & set(found.stdout.split())


def test_what_costs_nothing_to_find_out_is_found_out_before_the_data_is_read():
    before, line = mistake(DEBUG, "--config.cache_dir=/proc/nope")
    assert before == []
    assert "cannot write to /proc/nope" in line and "config.cache_dir" in line


def test_a_workdir_of_another_config_is_a_single_line_with_the_difference(home):
    directory = home / "run"
    workdir.claim(epath.Path(directory), Config())
    (directory / "student-0").mkdir()
    before, line = mistake(DEBUG, "--workdir=run")
    assert before == []
    assert "config.tokenizer.kind is 'bpe' there and 'bytes' now" in line
    assert "--overwrite" in line
    assert (directory / "student-0").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["--config.mesh.tensor=2", "--config.mesh.data=4"],
            ["data=4, fsdp=1, tensor=2", "1 cpu device"],
        ),
        (["--config.student.model.attention=splash"], ["the student", "needs a TPU"]),
    ],
)
def test_what_does_not_fit_the_devices_is_refused_before_the_data_is_read(
    overrides, words
):
    before, line = mistake(DEBUG, *overrides)
    assert before == []
    assert all(word in line for word in words)
    assert not pathlib.Path("cache", "kdjax").exists()


def test_a_mistake_in_the_data_may_be_mended_in_the_same_workdir():
    pattern = "--config.data.pattern=nothing/*.txt"
    _, line = mistake(DEBUG, "--workdir=run", "--config.data.source=files", pattern)
    assert "'nothing/*.txt' matches no" in line
    _, line = mistake(DEBUG, "--workdir=run", "--config.data.source=tfds:imdb_reviews")
    assert "'imdb_reviews' is not prepared in" in line


def test_a_teacher_with_another_tokenizer_is_refused_with_the_way_out(texts, home):
    card = {
        "model": dataclasses.asdict(ModelConfig(width=16, vocab_size=257)),
        "tokenizer": "0123456789abcdef" * 4,
        "end_of_text": "<|endoftext|>",
        "sha256": "",
    }
    teacher = home / "teacher"
    teacher.mkdir()
    (teacher / "model.json").write_text(json.dumps(card))
    _, line = mistake(
        DEBUG,
        "--config.data.source=files",
        f"--config.data.pattern={texts}",
        "--config.data.validation_fraction=0.2",
        "--config.teacher.path=teacher",
    )
    assert "another tokenizer" in line
    assert "kind=file --config.tokenizer.path=teacher/tokenizer.json" in line


def test_a_finished_workdir_answers_with_its_report_at_once(home):
    config = default_config()
    report = home / "runs" / "plain-tiny" / "report"
    report.mkdir(parents=True)
    (report / "report.html").write_text("<p>")
    results = {"config": dataclasses.asdict(validate(config))}
    (report / "report.json").write_text(json.dumps(results))
    pathlib.Path("plain.py").write_text(
        "from kdjax.config import default\n\n\ndef get_config(argument):\n"
        "    return default()\n"
    )
    done = run("--config=plain.py:tiny")
    assert (done.returncode, done.stderr) == (0, "")
    assert "runs/plain-tiny/report/report.html" in done.stdout


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(
    "python",
    [("-m", "kdjax.main", "--help"), ("-c", "import kdjax.main")],
    ids=["--help", "import"],
)
def test_help_and_import_are_quick_because_they_import_nothing_heavy(python):
    begin = processor_seconds()
    done = run(python=("-X", "importtime", *python))
    assert processor_seconds() - begin < 2
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "kdjax.config" in imported
    heavy = {
        "jax",
        "flax",
        "optax",
        "orbax",
        "grain",
        "tensorflow_datasets",
        "matplotlib",
    }
    assert not imported & heavy
    if "--help" in python:
        for flag in ("--config", "--workdir", "--[no]overwrite"):
            assert flag in done.stdout
        assert "python -m kdjax.main --config=configs/gpt_small.py" in done.stdout


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        ("UsageError('choose\\nanother')", 2, "error: choose another"),
        ("OSError(28, 'No space left on device', 'x')", 1, "error: No space left on d"),
        ("FloatingPointError('diverged')", 1, "error: diverged"),
        ("KeyboardInterrupt", 130, "stopped"),
        ("Preempted", 42, "stopped"),
    ],
)
def test_the_exit_status_tells_a_mistake_from_a_failure(error, status, line):
    code = "from kdjax.core import cli\nfrom kdjax.core.errors import UsageError\n"
    code += "from kdjax.core.stopping import Preempted\n"
    code += f"def main(argv):\n    raise {error}\ncli.run(main)"
    done = run(code, python=("-c",))
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "flags", "words"),
    [
        ("export", ["--workdir=x"], "--to is missing"),
        ("report", [], "name an experiment's workdir"),
        ("generate", ["--checkpoint=", "--prompt=x"], "--checkpoint is missing"),
        ("generate", ["--checkpoint=x"], "--prompt is missing"),
        ("generate", ["--checkpoint=x", "--prompt=x", "--top_k=-1"], "top_k"),
    ],
)
def test_other_commands_name_the_flag_that_is_missing_or_wrong(command, flags, words):
    done = run(*flags, python=("-m", f"kdjax.{command}"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert words in done.stderr


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort", "--helpfull", "-?"])
def test_every_way_to_ask_for_help_gives_it(flag):
    done = run(f"--config={ROOT}/configs/ensemble.py", flag)
    assert done.returncode == 0 and done.stderr == ""
    assert "--workdir" in done.stdout and "Distils a student" in done.stdout
