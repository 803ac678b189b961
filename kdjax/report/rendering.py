"""Pages from templates: HTML that needs no other file."""

import re
from typing import Any

import jinja2

from kdjax.report.words import optimizer, setting, stored_weights


def render(template: str, **values: Any) -> str:
    """Returns a page of `kdjax/report/templates`; all values are escaped.

    Raises:
        jinja2.UndefinedError: The template asks for a value that is not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kdjax.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "lines": _lines,
        "optimizer": optimizer,
        "percent": _percent,
        "setting": setting,
        "share": _share,
        "stored_weights": stored_weights,
        "unbroken": _unbroken,
        "visible": _visible,
        "written": _written,
    }
    return environment.get_template(template).render(values)


def _lines(text: str) -> str:
    """Returns a token's text with something to point at, however little it says."""
    return re.sub(r"\r?\n", "\u21b5\n", text) or "\u2027"


def _unbroken(text: str) -> str:
    """Returns a label or a figure without a break before an arrow or in "+- 0.1"."""
    text = text.replace("\u00b1 ", "\u00b1\u00a0")
    return re.sub(" (?=[\u2193\u2191]$)", "\u00a0", text)


def _visible(text: str) -> str:
    """Returns a token's text with its white space written out."""
    shown = text.replace(" ", "\u00b7").replace("\n", "\u21b5").replace("\t", "\u21e5")
    return shown.replace("\r", "\u240d") or "part of a character"


def _written(text: str) -> str:
    """Returns a text; white space alone is written out, as else it would be missed."""
    return text if text.strip() else _visible(text) if text else "(nothing)"


def _percent(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else f"{probability:.1g}"


def _share(value: float, whole: float) -> str:
    return f"{min(1.0, max(0.0, value / whole)):.3f}"
