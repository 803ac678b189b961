"""Writes docs/api/, a page for each room, before the pages are read.

A room with an `__all__` shows those names, and so do packages in it. Any other room
shows the public functions and classes of its modules, where they are defined.
"""

import importlib
import inspect
import pathlib
import pkgutil
import runpy
from types import ModuleType

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.autodoc.mock import mock
from sphinx.util import logging

ROOT = pathlib.Path(__file__).parents[2]
API = ROOT / "docs" / "api"
ROOMS: tuple[str, ...] = runpy.run_path(str(ROOT / "tests" / "test_layers.py"))["ROOMS"]
LOGGER = logging.getLogger(__name__)
LONGEST = 60  # letters of a value that is shown


def pages(absent: list[str]) -> dict[str, str]:
    """Returns the text of every page by its file's name.

    Args:
        absent: Libraries that are not installed; those found missing are added to it.
    """
    shown = {"kdjax": [imported("kdjax", absent)]}
    for room in ROOMS:
        shown[room] = shown_modules(imported(f"kdjax.{room}", absent), absent)
    homes = _homes([module for modules in shown.values() for module in modules])
    written = {name: _page(modules, homes) for name, modules in shown.items()}
    return {"index": _index([modules[0] for modules in shown.values()])} | written


def imported(name: str, absent: list[str]) -> ModuleType:
    """Returns a module; libraries of an extra that is not installed are stand-ins."""
    try:
        with mock(absent):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        library = (error.name or "kdjax").partition(".")[0]
        if library in ("kdjax", *absent):
            raise
        LOGGER.info("%s is not installed; %s is shown without it", library, name)
        absent.append(library)
        return imported(name, absent)


def _homes(modules: list[ModuleType]) -> dict[int, str]:
    """Returns where in its own room each class and function is shown, by identity."""
    return {
        id(value): f"{module.__name__}.{name}"
        for module in modules
        for name in public_names(module)
        if _is_at_home(value := getattr(module, name), module.__name__)
    }


def _is_at_home(value: object, module: str) -> bool:
    """Says whether a class or function is defined in the room of a module."""
    room = ".".join(module.split(".")[:2])
    return f"{getattr(value, '__module__', '')}.".startswith(f"{room}.")


def shown_modules(room: ModuleType, absent: list[str]) -> list[ModuleType]:
    """Returns the room, and those of its modules whose names are shown on their own."""
    below = [
        imported(found.name, absent)
        for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
        if found.ispkg or not hasattr(room, "__all__")
    ]
    if hasattr(room, "__all__"):
        below = [package for package in below if hasattr(package, "__all__")]
    return [room, *(module for module in below if public_names(module))]


def public_names(module: ModuleType) -> list[str]:
    """Returns what a module exports, or else the functions and classes it defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isroutine(value))
        and value.__module__ == module.__name__
    ]


def _page(modules: list[ModuleType], homes: dict[int, str]) -> str:
    sections = []
    for module in modules:
        line = "=" if module is modules[0] else "-"
        sections.append(_heading(module.__name__, line))
        sections.append(f".. automodule:: {module.__name__}\n   :no-members:\n")
        sections += [_entry(module, name, homes) for name in public_names(module)]
    return "\n".join(sections)


def _entry(module: ModuleType, name: str, homes: dict[int, str]) -> str:
    full, value = f"{module.__name__}.{name}", getattr(module, name)
    home = homes.get(id(value), full)
    is_class = inspect.isclass(value)
    if home != full:
        kind = "class" if is_class else "function"
        lines = [f".. py:{kind}:: {name}", f"   :module: {module.__name__}", ""]
        return "\n".join([*lines, f"   The same as :py:obj:`{home}`.", ""])
    if is_class or inspect.isroutine(value):
        return f".. auto{'class' if is_class else 'function'}:: {full}\n"
    hidden = "   :no-value:\n" if len(repr(value)) > LONGEST else ""
    return f".. autodata:: {full}\n{hidden}"


def _heading(title: str, line: str) -> str:
    return f"{title}\n{line * len(title)}\n"


def _index(modules: list[ModuleType]) -> str:
    rows, tree = [], ["", ".. toctree::", "   :hidden:", ""]
    for module in modules:
        page = module.__name__.rpartition(".")[2]
        purpose = (module.__doc__ or "").split("\n")[0]
        rows.append(f":doc:`{module.__name__} <{page}>`\n   {purpose}\n")
        tree.append(f"   {page}")
    return "\n".join([_heading("API", "="), *rows, *tree]) + "\n"


def write(absent: list[str]) -> None:
    """Writes the pages that have changed, and removes those of rooms that are gone."""
    API.mkdir(exist_ok=True)
    texts = {API / f"{name}.rst": text for name, text in pages(absent).items()}
    for path in set(API.iterdir()) - set(texts):
        path.unlink()
    for path, text in texts.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _write(app: Sphinx) -> None:
    absent = [*app.config.autodoc_mock_imports]
    write(absent)
    app.config.autodoc_mock_imports = absent


def _link_no_source_twice(app: Sphinx, page: nodes.document) -> None:
    """Leaves the link to the source, and the one back, to the entry in its own room."""
    for signature in page.findall(addnodes.desc_signature):
        module, name = signature.get("module"), signature.get("fullname", "")
        if module:
            value = getattr(importlib.import_module(module), name.split(".")[0], None)
            if not _is_at_home(value, module):
                signature["module"] = None


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension."""
    app.connect("builder-inited", _write)
    app.connect("doctree-read", _link_no_source_twice, priority=400)  # before viewcode
    return {"parallel_read_safe": True, "parallel_write_safe": True}
