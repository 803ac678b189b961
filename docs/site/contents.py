"""The site's table of contents, which README does not show on GitHub."""

import pathlib
import re
from typing import NamedTuple

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

GUIDE = "docs/guide/"
HOW_TOS = (
    "docs/data",
    "docs/buckets",
    "docs/tokenizers",
    "docs/teachers",
    "docs/students",
    "docs/own-models",
    "docs/pretrained",
    "docs/evaluate",
    "docs/planning",
    "docs/sweeps",
    "docs/report",
    "docs/generate",
    "docs/notebook",
    "launch/README",
)
REFERENCE = ("docs/config", "docs/divergences", "docs/api/index")
DECISIONS = "docs/adr/README"
DESIGN = ("docs/architecture", DECISIONS)
PROJECT = ("CONTRIBUTING", "CHANGELOG")


class Part(NamedTuple):
    """A part of the site: its title, and its pages in order."""

    title: str
    pages: tuple[str, ...]


def parts(found: set[str]) -> list[Part]:
    """Returns the site's parts; a page with no other place is a how-to."""
    guide = sorted(page for page in found if page.startswith(GUIDE))
    guide = [*dict.fromkeys((*_guide_order(), *guide))]
    others = sorted(
        page
        for page in found
        if page.startswith("docs/")
        and page.count("/") == 1
        and page not in {*HOW_TOS, *REFERENCE, *DESIGN}
    )
    all_parts = (
        Part("Guide", tuple(guide)),
        Part("How-tos", (*HOW_TOS, *others)),
        Part("Reference", REFERENCE),
        Part("Design", DESIGN),
        Part("Project", PROJECT),
    )
    kept = [
        part._replace(pages=tuple(page for page in part.pages if page in found))
        for part in all_parts
    ]
    return [part for part in kept if part.pages]


def _guide_order() -> list[str]:
    """Returns the guide's first page, and the others in the order of its links."""
    first = f"{GUIDE}README"
    text = (pathlib.Path(__file__).parents[2] / f"{first}.md").read_text()
    return [first, *(GUIDE + name for name in re.findall(r"\]\((\w+)\.md\)", text))]


def toctree(pages: list[str], title: str = "") -> str:
    """Returns the directive that puts pages into the sidebar, under a title or none."""
    options = [f":caption: {title}"] if title else []
    lines = ["", "```{toctree}", *options, ":hidden:", "", *pages, "```", ""]
    return "\n".join(lines)


def _add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    found = app.env.found_docs
    if page == app.config.root_doc:
        source[0] += toctree(["self"], "Start")
        for part in parts(found):
            source[0] += toctree([f"/{name}" for name in part.pages], part.title)
    elif page == DECISIONS:
        folder = DECISIONS.removesuffix("README")
        records = sorted(name for name in found if name.startswith(folder))
        source[0] += toctree([f"/{name}" for name in records if name != page])


def _outdated(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: object, gone: set[str]
) -> list[str]:
    """Has the tables of contents read again when a page comes or goes."""
    return [app.config.root_doc, DECISIONS] if added or gone else []


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension."""
    app.connect("source-read", _add_contents)
    app.connect("env-get-outdated", _outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
