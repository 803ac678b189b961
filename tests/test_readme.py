"""What the README shows must work as it is shown."""

import pathlib
import re
import subprocess

import pytest
from toys import write_model

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_python_examples_run(example, tmp_path, monkeypatch):
    write_model(tmp_path / "runs" / "gpt_small" / "student-0" / "model")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})


def test_every_path_it_names_exists():
    named = set(re.findall(r"(?:configs|launch|docs|benchmarks)/[\w./-]+", README))
    missing = [name for name in named if not (ROOT / name.rstrip(".")).exists()]
    assert named
    assert not missing


def test_continuous_integration_takes_its_test_command_from_here():
    script = (ROOT / ".ci" / "run").read_text()
    (extract,) = re.findall(r"^command=\$\((.*)\)$", script, flags=re.MULTILINE)
    found = subprocess.run(extract, shell=True, cwd=ROOT, capture_output=True)
    assert found.stdout.decode().strip() == "pip install -e '.[test]' && pytest"
