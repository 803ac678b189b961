"""What is generated is what the code says now."""

import pathlib
import runpy

DOCS = pathlib.Path(__file__).parent.parent / "docs"


def test_the_page_of_divergences_is_the_table_s():
    generator = runpy.run_path(str(DOCS / "divergences.py"))
    text = (DOCS / "divergences.md").read_text()
    assert text == generator["page"](), "run: python docs/divergences.py"
    assert (DOCS / "divergences.png").exists()
