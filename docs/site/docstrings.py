"""Docstrings are plain text with some Markdown; this makes them reStructuredText."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import inspect as signatures

# A shape such as [*batch, D]; at the start of a line it is an argument, as in *args.
STAR = re.compile(r"(?<=\S)(\s*)\*(?=\w)")
VALUES, HIDDEN_COLON = ("attribute", "data", "property"), "\ue000"
CODE = re.compile(r"(`+[^`]*`+)")


def convert(lines: list[str]) -> list[str]:
    """Returns the lines with literal stars, and with indented blocks as code."""
    return [
        _literal_stars(line) + ":" * _opens_a_block(lines, number)
        for number, line in enumerate(lines)
    ]


def _literal_stars(line: str) -> str:
    if line.lstrip().startswith((">>>", "...")):
        return line
    # The split puts code at odd places, and leaves text at even ones.
    pieces = CODE.split(line)
    pieces[::2] = [STAR.sub(r"\1\\*", piece) for piece in pieces[::2]]
    return "".join(pieces)


def _opens_a_block(lines: list[str], number: int) -> bool:
    """Says whether a line ends in a colon before an indented block, as in Markdown."""
    line, after = lines[number], lines[number + 1 :]
    if not line.endswith(":") or line.endswith("::") or not after or after[0].strip():
        return False
    following = next((other for other in after if other.strip()), "")
    return _indent(following) > _indent(line)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _process(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    if what == "data" and inspect.getdoc(obj) == inspect.getdoc(type(obj)):
        # Its type's docstring, which says nothing of it.
        keys = ", ".join(f"`{key}`" for key in obj) if isinstance(obj, Mapping) else ""
        lines[:] = [f"Its keys are {keys}.", ""] if keys else []
    lines[:] = convert(lines)
    if what in VALUES and lines:
        # Or else napoleon takes what stands before it for a type.
        lines[0] = lines[0].replace(":", HIDDEN_COLON)


def _show_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = [line.replace(HIDDEN_COLON, ":") for line in lines]


def _sign(
    app: Sphinx,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """Writes the defaults of classes of fields as the source does, or shorter."""
    if inspect.isclass(obj) and (dataclasses.is_dataclass(obj) or _is_named_tuple(obj)):
        written = signatures.signature(obj)
        parameters = [
            parameter.replace(default=_Default(obj, parameter))
            if parameter.default is not parameter.empty
            else parameter
            for parameter in written.parameters.values()
        ]
        signature = signatures.stringify_signature(
            written.replace(parameters=parameters),
            show_return_annotation=False,
            unqualified_typehints=True,
            short_literals=True,
        )
    elif getattr(obj, "_is_protocol", False):
        signature = ""  # nobody calls it
    return signature, returned


class _Default:
    """A default whose repr is short: of a dataclass, what differs from its own."""

    def __init__(self, cls: Any, parameter: inspect.Parameter) -> None:
        fields = {} if _is_named_tuple(cls) else cls.__dataclass_fields__
        field = fields.get(parameter.name)
        self.text = _short(_default(field) if field else parameter.default)

    def __repr__(self) -> str:
        return self.text


def _is_named_tuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _default(field: dataclasses.Field[Any]) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _short(value: Any) -> str:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return repr(value) if _is_code(repr(value)) else "..."
    set_here = [
        f"{field.name}={_short(now)}"
        for field in dataclasses.fields(value)
        if (now := getattr(value, field.name)) != _default(field)
    ]
    return f"{type(value).__name__}({', '.join(set_here)})"


def _is_code(text: str) -> bool:
    """Says whether Python reads a repr; Sphinx shows no signature with another."""
    try:
        ast.parse(text, mode="eval")
    except SyntaxError:
        return False
    return True


def _skip(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leaves out a NamedTuple's fields, which its own docstring explains."""
    is_field = str(getattr(obj, "__doc__", "")).startswith("Alias for field number")
    return True if is_field else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension."""
    app.connect("autodoc-process-docstring", _process, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _show_colons, priority=600)  # after it
    app.connect("autodoc-process-signature", _sign)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
