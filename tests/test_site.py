"""Links lead somewhere, on GitHub and on the site, which loads its own files only."""

import html.parser
import importlib
import os
import pathlib
import pkgutil
import re
import subprocess
import sys
import urllib.parse

import pytest

import kdjax

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "README.md")),
    ROOT / "launch" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
FENCED = re.compile(r"^ *(```+|~~~+).*?^ *\1", re.M | re.S)
INDENTED = re.compile(r"(?:\A|\n\n)(?:(?: {4}|\t).*(?:\n|\Z)|\n(?= {4}|\t))+")
LINK = re.compile(
    r"""\]\(\s*<?([^\s)>]+)>?[^)]*\)       # [text](target "title"), images too
      | ^\[[^\]^][^\]]*\]:\s*<?([^\s>]+)   # [name]: target, and no [^footnote]: text
      | \b(?:href|src)=["']([^"']+)["']    # HTML
    """,
    re.M | re.X,
)


def prose(page):
    """Returns a page's text without its blocks of code."""
    return INDENTED.sub("\n\n", FENCED.sub("", page.read_text()))


def links(page):
    """Yields the targets of a page's links that stay in the repository."""
    for found in LINK.finditer(re.sub(r"`+[^`]*`+", "code", prose(page))):
        target = next(filter(None, found.groups()))
        if not urllib.parse.urlsplit(target).scheme:
            yield target


def anchors(page):
    """Returns the anchors that GitHub gives a page's headings."""
    seen = []
    for heading in re.findall(r"^ {0,3}#{1,6} +(.+?)(?: +#+)? *$", prose(page), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        seen.append(slug)
        if seen.count(slug) > 1:
            seen.append(f"{slug}-{seen.count(slug) - 1}")
    return {*seen, *re.findall(r"\b(?:id|name)=[\"']([^\"']+)", prose(page))}


def fault(page, target):
    """Returns what is wrong with a link, or None."""
    path, _, anchor = urllib.parse.unquote(target).partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.is_relative_to(ROOT) or not file.is_file():
        return f"{target}: no file of the repository; a folder has no page on the site"
    if anchor and (file.suffix != ".md" or anchor not in anchors(file)):
        return f"{target}: no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    assert not [found for target in links(page) if (found := fault(page, target))]


def test_a_link_that_leads_nowhere_is_found(tmp_path, monkeypatch):
    """In each way to write it, and in no code, where brackets are no links."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "code.py").touch()
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b.c`, d: e_f\n\n## Twice\n\n## Twice\n\n"
        "```python\n# Comment\nx[0](a)\n```\n\n    y[1](b)\n\n"
        "`z[2](c)`\n[a](page.md#a-bc-d-e_f) [b](#twice-1) [c](code.py)\n"
        "[outside](https://example.org) [1](gone.md) [2](folder) [3](#comment)\n"
        '[4](page.md#twice-2) ![5](gone.png "title") <a href="gone.html">6</a>\n'
        "[7](../page.md) [8](code.py#twice)\n\n[9]: gone.md#twice\n[^a]: A note.\n"
    )
    assert len([*filter(None, (fault(page, target) for target in links(page)))]) == 9


def test_every_decision_is_in_their_list():
    folder = ROOT / "docs" / "adr"
    index = folder / "README.md"
    listed = re.findall(r"^- \[(.*)\]\((.*)\)$", index.read_text(), re.M)
    found = sorted(path for path in folder.glob("*.md") if path != index)
    titles = [path.read_text().split("\n")[0].removeprefix("# ") for path in found]
    assert listed == [*zip(titles, (path.name for path in found), strict=True)]


class Page(html.parser.HTMLParser):
    """A page of the site: its anchors, where it leads, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.leads, self.loads = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" or (tag == "link" and values.get("rel") in NAVIGATION):
            self.leads.append(values.get("href"))
        elif tag == "form":
            self.leads.append(values.get("action"))
        else:
            keys = ("src", "href", "data", "poster", "srcset")
            # The parts of a drawing refer to its symbols by their anchors.
            found = [values[key] for key in keys if values.get(key)]
            self.loads += [value for value in found if not value.startswith("#")]


NAVIGATION = ("next", "prev", "index", "search", "author", "canonical")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site's folder and its pages by their paths; a warning is an error."""
    for name in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(name)
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q"]
    command += ["-c", "docs/site", "-d", str(out / "read"), ".", str(out / "site")]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    folder = out / "site"
    return folder, {path: Page(path) for path in folder.rglob("*.html")}


@pytest.mark.slow
def test_the_site_has_every_page(site):
    folder, pages = site
    expected = {
        folder / page.relative_to(ROOT).with_suffix(".html") for page in PAGES
    } | {folder / "index.html", folder / "search.html"}
    assert expected <= pages.keys()
    assert "README.html" in pages[folder / "index.html"].leads
    # The first page's sidebar leads to all of them.
    reached = {
        (folder / lead.partition("#")[0]).resolve()
        for lead in pages[folder / "README.html"].leads
    }
    assert expected - reached == {folder / "index.html", folder / "README.html"}
    # The guide is read in the order in which its first page lists it.
    guide = ROOT / "docs" / "guide" / "README.md"
    listed = ["README.md", *links(guide)]
    order = [f"docs/guide/{name}".replace(".md", ".html") for name in listed]
    leads = dict.fromkeys(pages[folder / "README.html"].leads)
    assert [lead for lead in leads if lead in order] == order


@pytest.mark.slow
def test_no_link_of_the_site_leads_nowhere(site):
    folder, pages = site
    wrong = []
    for path, page in pages.items():
        for lead in page.leads:
            url = urllib.parse.urlsplit(lead or "")
            if url.scheme or url.netloc:
                continue
            there = (path.parent / urllib.parse.unquote(url.path)).resolve()
            there = there if url.path else path
            anchor = urllib.parse.unquote(url.fragment)
            if not there.is_file() or (anchor and anchor not in pages[there].ids):
                wrong.append((path.relative_to(folder), lead))
    assert sum(len(page.leads) for page in pages.values()) > 1000
    assert not wrong


@pytest.mark.slow
def test_the_site_loads_its_own_files_only(site):
    folder, pages = site
    loaded = [(path, load) for path, page in pages.items() for load in page.loads]
    for path in folder.rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", path.read_text())
        loaded += [(path, url) for url in urls]
    assert len(loaded) > 100
    missing = []
    for path, load in loaded:
        url = urllib.parse.urlsplit(load)
        is_here = not url.netloc and (path.parent / url.path).is_file()
        if url.scheme != "data" and not is_here:
            missing.append((path.relative_to(folder), load))
    assert not missing


@pytest.mark.slow
def test_every_exported_name_is_in_the_reference(site):
    folder, pages = site
    shown = set()
    for path in (folder / "docs" / "api").iterdir():
        shown |= pages[path].ids
    names = ["kdjax"]
    for found in pkgutil.walk_packages(kdjax.__path__, "kdjax."):
        if found.ispkg:
            names.append(found.name)
    exported = {
        f"{name}.{public}"
        for name in names
        for public in getattr(importlib.import_module(name), "__all__", ())
    }
    assert len(exported) > 50
    assert exported <= shown


@pytest.mark.slow
def test_the_reference_shows_what_the_source_says(site):
    """Stars, shapes, defaults and colons, which Sphinx reads in ways of its own."""
    folder, _ = site
    # A flag's hyphens are no dash, in text as in code.
    quoted = (folder / "docs" / "guide" / "reading.html").read_text()
    assert "seed; --config.seeds=3" in quoted
    shown = ""
    for path in sorted((folder / "docs" / "api").iterdir()):
        text = html.unescape(re.sub(r"<[^>]*>", "", path.read_text()))
        shown += re.sub(r"\s+", " ", text)
    for expected in (
        "hidden: Float[Array, '*batch D'] | Any,",
        "The last hidden states, [*batch, D].",
        "tokenizer.decode([*tokenizer.encode_prompt(",
        "t: float | ScheduleConfig = ScheduleConfig(start=0.0),",
        "property stops: tuple[int, ...]",
        "The ids that end a text: of a document",
    ):
        assert expected in shown, expected
    assert not re.search(
        r"\\\*|jaxlib|<factory>|<function| object at 0x|: ~|\ue000", shown
    )
