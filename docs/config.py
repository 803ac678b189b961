"""Writes docs/config.md, the reference of all config keys, from their source.

python docs/config.py
"""

import ast
import dataclasses
import inspect
import pathlib
import typing
from typing import NamedTuple

from kdjax.config import schema

DIRECTORY = pathlib.Path(__file__).parent

INTRODUCTION = """\
# Config keys

Written by `python docs/config.py` from `kdjax/config/schema.py`: change it there.

A config file starts from `kdjax.config.default()`, sets some of these keys and returns
the config. On the command line any key is a flag: `--config.distill.temperature=2`. An
unknown key, a wrong type, a key that would do nothing, and a number beyond what any
model or float32 can hold are refused before anything runs.
"""


class Key(NamedTuple):
    """One row of the page."""

    name: str
    kind: str
    default: str
    meaning: str


def page() -> str:
    """Returns the page's text."""
    sections = [INTRODUCTION]
    for cls, paths in _sections().items():
        title = ", ".join(f"`{path}`" for path in paths)
        rows = [
            f"| `{key.name}` | {key.kind} | {key.default} | {key.meaning} |"
            for key in _keys(cls, paths)
        ]
        lines = [f"## {title}", "", inspect.getdoc(cls) or "", ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|", *rows]
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def _sections() -> dict[type, list[str]]:
    """Returns where each dataclass stands in the config, in the order of its keys."""
    found: dict[type, list[str]] = {}

    def visit(cls: type, path: str) -> None:
        found.setdefault(cls, []).append(path)
        for name, hint in typing.get_type_hints(cls).items():
            for nested in (hint, *typing.get_args(hint)):
                if nested is schema.ScheduleConfig:  # a value of several keys
                    found.setdefault(nested, ["a schedule"])
                elif isinstance(nested, type) and dataclasses.is_dataclass(nested):
                    is_free = nested is not hint
                    visit(nested, f"{path}.{name}" + (".NAME" if is_free else ""))

    visit(schema.Config, "config")
    found[schema.ScheduleConfig] = found.pop(schema.ScheduleConfig)  # the last
    return found


def _keys(cls: type, paths: list[str]) -> list[Key]:
    """Returns the keys of a dataclass with what its source says of them."""
    source = inspect.getsource(cls)
    lines = source.splitlines()
    keys = []
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name = node.target.id
        default = getattr(cls(), name)
        keys.append(
            Key(
                name,
                _escaped(ast.unparse(node.annotation)),
                _default(default, f"{paths[0]}.{name}"),
                _escaped(_comment(lines, node)),
            )
        )
    return keys


def _default(value: object, path: str) -> str:
    if dataclasses.is_dataclass(value) and type(value) is not schema.ScheduleConfig:
        return f"see `{path}`"
    # A bar ends a cell, also inside code; "<" is no tag there.
    return f"`{value!r}`".replace("|", "\\|")


def _comment(lines: list[str], node: ast.AnnAssign) -> str:
    """Returns the comment lines above a field and the comment behind it."""
    above: list[str] = []
    number = node.lineno - 2
    while lines[number].strip().startswith("#"):
        above.insert(0, lines[number].strip().lstrip("# "))
        number -= 1
    last = lines[(node.end_lineno or node.lineno) - 1]
    behind = last[node.end_col_offset :].strip().lstrip("# ")
    return " ".join(filter(None, (*above, behind)))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    (DIRECTORY / "config.md").write_text(page())
