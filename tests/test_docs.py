"""What is generated is what the code says now, and what is shown works."""

import io
import itertools
import json
import pathlib
import re
import runpy

import jax.numpy as jnp
import numpy as np
import pytest
import runs
from PIL import Image
from toys import write_model

from kdjax.losses import DIVERGENCES

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"


GENERATOR = runpy.run_path(str(DOCS / "divergences.py"))


def test_the_page_of_divergences_is_the_table_s():
    text = (DOCS / "divergences.md").read_text()
    assert text == GENERATOR["page"](), "run: python docs/divergences.py"


def test_the_picture_of_divergences_shows_what_the_functions_return():
    shown, picture = GENERATOR["curves"](), Image.open(DOCS / "divergences.png")
    assert [curve.title.split("\n")[0] for curve in shown] == list(DIVERGENCES)
    drawn = json.loads(picture.info["Description"])
    assert drawn.keys() == {curve.title for curve in shown}, "run the generator"
    for curve in shown:
        # Two decimals are stored, and another machine may round them differently.
        now = [line[:: GENERATOR["STRIDE"]] for line in curve[1:]]
        np.testing.assert_allclose(drawn[curve.title], now, atol=0.011)


@pytest.mark.parametrize("count", [1, 13])
def test_a_picture_is_drawn_of_any_number_of_divergences(count):
    curves = itertools.islice(itertools.cycle(GENERATOR["curves"]()), count)
    picture = Image.open(io.BytesIO(GENERATOR["picture"]([*curves])))
    assert picture.height == -(-count // 4) * 275


def test_the_page_of_config_keys_is_the_schema_s():
    generator = runpy.run_path(str(DOCS / "config.py"))
    assert (DOCS / "config.md").read_text() == generator["page"](), (
        "run: python docs/config.py"
    )


def test_every_config_key_is_explained():
    """By a comment, unless its name and its section say it all."""
    rows = re.findall(
        r"^\| `(\w+)` \|.*\| ([^|]*) \|$", (DOCS / "config.md").read_text(), re.M
    )
    plain = {"kind", "seed", "activation", "rules"}
    sections = {"data", "tokenizer", "mesh", "teacher", "model", "rope_scaling"}
    sections |= {"train", "optimizer", "student", "distill", "evaluate", "checkpoint"}
    sections |= {"spike_guard"}
    assert {key for key, meaning in rows if not meaning} <= plain | sections


def test_every_row_of_config_keys_has_four_cells():
    """A bar in a default, as in <|endoftext|>, would begin another one."""
    rows = re.findall(r"^\| `.*$", (DOCS / "config.md").read_text(), re.M)
    assert any("endoftext" in row for row in rows)
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {4 + 2}


def test_the_picture_of_the_rooms_shows_what_the_code_imports():
    architecture = runpy.run_path(str(DOCS / "architecture.py"))
    drawn = Image.open(DOCS / "architecture.png").info["Description"]
    now = architecture["description"](architecture["rooms"]())
    assert json.loads(drawn) == json.loads(now), "run: python docs/architecture.py"


def test_the_table_of_the_rooms_is_in_their_order():
    rooms = re.findall(r"^\| `(\w+)/`", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert (
        tuple(rooms) == runpy.run_path(str(DOCS / "architecture.py"))["LAYERS"]["ROOMS"]
    )


PAGES = (
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "README.md",
    *sorted(DOCS.rglob("*.md")),
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_that_a_page_names_exists(page):
    top = "benchmarks|configs|docs|kdjax|launch|tests"
    named = set(
        re.findall(rf"(?<!\.cache/)\b((?:{top})/[\w./*-]*\w)", page.read_text())
    )
    assert not [name for name in named if not [*ROOT.glob(name)]]


def test_a_finished_run_speaks_in_a_notebook_as_it_is_shown(
    tmp_path, monkeypatch, capsys
):
    written = tmp_path / "runs" / "gpt_small" / "student-0" / "model"
    model, params, tokenizer = write_model(written)
    monkeypatch.chdir(tmp_path)
    text, shown = (DOCS / "generate.md").read_text(), {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "generate.md", "exec"), shown)
    ids = tokenizer.encode_prompt("def main(")
    np.testing.assert_array_equal(
        shown["logits"], model.logits(params, jnp.array([ids]))
    )
    lines = capsys.readouterr().out
    assert lines.startswith("def main(") and len(lines) > len("def main(\n")


def test_a_config_file_with_a_divergence_of_its_own_is_an_experiment(texts, home):
    (block,) = re.findall(
        r"```python\n(.*?)```", (DOCS / "divergences.md").read_text(), flags=re.DOTALL
    )
    (home / "mine.py").write_text(block)
    command = [
        *runs.experiment(texts, "run"),
        *("--config.tokenizer.kind=bytes", "--config.log_every=1"),
        *("--config.teacher.train.steps=2", "--config.student.train.steps=3"),
        "--config.baseline=False",
        # As in configs/gpt_debug.py, whose compiled programs are there.
        *(
            f"--config.{role}.{key}"
            for role, layers, width in (("teacher", 2, 32), ("student", 1, 16))
            for key in (
                *(f"model.layers={layers}", f"model.width={width}", "model.heads=2"),
                "train.batch_size=8",
            )
        ),
    ]
    command[2] = "--config=mine.py"
    runs.run(*command)
    records = (home / "run" / "student-0" / "metrics.jsonl").read_text().splitlines()
    # In [0, 2], and not the default, which is far above at the start.
    assert 0.0 < json.loads(records[0])["train/soft"] < 2.0
    assert "triangular" in (home / "run" / "config.json").read_text()
    assert "finished before" in runs.run(*command).stdout
    assert "triangular" not in DIVERGENCES


def test_the_session_in_a_notebook_runs_as_it_is_shown(texts, home):
    """On a smaller corpus and for fewer steps than the page's config has."""
    (home / "tiny.py").write_text(
        "import kdjax\n\n\n"
        "def get_config():\n"
        "    config = kdjax.load_config('kdjax:gpt_debug')\n"
        f"    config.data.update(source='files', pattern={str(texts)!r})\n"
        "    config.data.validation_fraction = 0.2\n"
        # As in other tests, whose compiled programs are there.
        "    config.teacher.train.steps, config.student.train.steps = 2, 4\n"
        "    config.evaluate.update(rows=16, final_rows=32, batch_size=8)\n"
        "    config.data.length = 64\n"
        "    return config\n"
    )
    page = (DOCS / "notebook.md").read_text()
    shown = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    assert "kdjax:gpt_debug" in shown
    (home / "session.py").write_text(
        shown.replace("kdjax:gpt_debug", "tiny.py")
        + "print(logits.shape[-1])\n"
        + "again = kdjax.run(config, 'runs/triangular')\n"
        + "assert again.created == compared.created\n"
    )
    said = runs.run("session.py", cwd=home)
    assert said.stdout.count("the student reaches") == 2
    assert said.stdout.splitlines()[-1] == "257"
    assert "teacher: loaded from" in said.stderr  # by the second experiment
    for name in ("notebook", "triangular"):
        assert (home / "runs" / name / "report" / "report.html").exists()


def test_the_examples_of_teachers_run():
    text, shown = (DOCS / "teachers.md").read_text(), {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "teachers.md", "exec"), shown)
    assert shown["parts"].soft["cached"].shape == (2, 3)
    assert shown["config"].teachers.wide.weight == 2.0
