"""What is generated is what the code says now, and what is shown works."""

import pathlib
import re
import runpy

import jax.numpy as jnp
import numpy as np
from toys import write_model

DOCS = pathlib.Path(__file__).parent.parent / "docs"


def test_the_page_of_divergences_is_the_table_s():
    generator = runpy.run_path(str(DOCS / "divergences.py"))
    text = (DOCS / "divergences.md").read_text()
    assert text == generator["page"](), "run: python docs/divergences.py"
    assert (DOCS / "divergences.png").exists()


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
