"""One command for all doors, and the example configs wherever kdjax is installed."""

import importlib.util
import pathlib

import pytest
import runs

import kdjax
from kdjax.__main__ import COMMANDS
from kdjax.config import validate
from kdjax.config.packaged import load_config, names, resolve
from kdjax.core.errors import UsageError

ROOT = pathlib.Path(__file__).parents[1]


def test_the_command_lists_its_commands_and_each_of_them_exists():
    said = runs.run("-m", "kdjax").stdout
    for name, module in COMMANDS.items():
        assert f"\n    kdjax {name} " in said
        assert importlib.util.find_spec(module) is not None
    assert runs.run("-m", "kdjax", "--version").stdout.strip() == kdjax.__version__


@pytest.mark.parametrize("module", ["kdjax", "kdjax.main"])
def test_help_tells_where_the_keys_of_a_config_are_explained(module):
    said = runs.run("-m", module, "--help").stdout
    for path in ("docs/config.md", "kdjax/config/schema.py"):
        assert path in said and (ROOT / path).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["genrate"], "no command 'genrate'; did you mean 'generate'?"),
        (
            ["--config=x.py"],
            "no command '--config=x.py'; try run, plan, sweep, generate",
        ),
        (["run", "--config=kdjax:gpt_smal"], "no example config 'gpt_smal'; it has"),
        (["run"], "--config is missing"),
        (["generate", "--prompt=x"], "--checkpoint is missing"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(arguments, words):
    said = runs.run("-m", "kdjax", *arguments, check=False)
    assert said.returncode == 2
    assert words in said.stderr
    assert said.stderr.count("\n") == 1


def test_a_command_s_help_is_its_own():
    assert "--checkpoint" in runs.run("-m", "kdjax", "generate", "--help").stdout


def test_every_file_of_configs_is_an_example_by_its_name():
    assert names() == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("argument", ["", ":scarce"])
def test_an_example_is_the_same_by_its_name_and_by_its_path(argument):
    named = load_config(f"kdjax:gpt_small{argument}")
    path = f"{ROOT}/configs/gpt_small.py{argument}"
    assert validate(named) == validate(load_config(path))


def test_only_the_name_of_an_example_is_resolved():
    assert resolve("kdjax:gpt_debug") == f"{ROOT}/configs/gpt_debug.py"
    for other in ("--config=kdjax/x.py", "--prompt=kdjax:gpt_debug", "kdjax:", "x"):
        assert resolve(other) == other


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kdjax:nope", "no example config 'nope'"),
        ("nope.py", "nope.py does not exist"),
        (f"{ROOT}/setup.cfg", "cannot be read"),
        (f"{ROOT}/kdjax/core/errors.py", "no get_config"),
    ],
)
def test_what_is_no_config_is_refused(name, words):
    with pytest.raises(UsageError, match=words):
        load_config(name)
