"""Chat templates, which come with weights from anywhere: rendered within bounds.

Jinja's sandbox limits what a template can access. Here its time is limited as well, and
how much it can make of a little.
"""

import datetime
import functools
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import ext, nodes, sandbox

_SECONDS = 2.0  # of this thread, whatever else the machine does
_LONGEST = 1 << 22  # characters or items of one value, and of the whole
_LARGEST = 10**6  # of a number that says how much to make, such as a width
_MOST_BITS = 1 << 12  # of a whole number
_WIDTH = re.compile(r"[0-9]{6}|%[^a-z%]*\*")  # in a format


class _TooMuch(BaseException):
    """A template is stopped; no filter may take this for an error of its own."""


def render(source: str, variables: Mapping[str, Any]) -> str:
    """Returns a template's text.

    Args:
        source: The template, in Jinja.
        variables: What it is told.

    Raises:
        Exception: It is wrong, fails, or takes too much time or memory.
    """
    before = sys.gettrace()
    try:
        template = _environment().from_string(source)
        sys.settrace(_watch(time.thread_time() + _SECONDS))
        return "".join(_limited(template.generate(variables)))
    except _TooMuch as error:
        raise RuntimeError(str(error)) from None
    finally:
        sys.settrace(before)


def _watch(deadline: float) -> Callable[..., Any]:
    """Returns a trace function that ends what runs beyond a deadline.

    It looks at each line of a template and at each call of anything.
    """
    watches: list[Callable[..., Any]] = []
    # Called too often to be a function whose types are checked.
    watches.append(
        lambda frame, event, argument: (
            _stop()
            if time.thread_time() > deadline
            else watches[0]
            if frame.f_code.co_filename == "<template>"
            else None
        )
    )
    return watches[0]


def _stop() -> None:
    raise _TooMuch(f"it runs for more than {_SECONDS:g} s")


def _limited(pieces: Iterable[str]) -> Iterator[str]:
    size = 0
    for piece in pieces:
        size += len(piece)
        _check(size, _LONGEST)
        yield piece


def _check(size: int, most: int) -> None:
    if size > most:
        raise _TooMuch("it makes too large a value or text")


def _environment() -> "_Environment":
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
        finalize=_bounded,
    )
    environment.filters["tojson"] = _to_json
    for name, function in environment.filters.items():
        environment.filters[name] = _wary(name, function)
    environment.filters[_BOUNDED] = _bounded
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return environment


class _Environment(sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with checks of what could make much of a little."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _CHECKS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *args: Any, **options: Any) -> Any:
        name = getattr(function, "__name__", "")
        method = getattr(function, "__wrapped__", function)  # the sandbox wraps format
        text = getattr(method, "__self__", None)
        _check_call(name, (text, *args, *options.values()))
        return super().call(context, function, *args, **options)

    def _parse(self, *args: Any) -> nodes.Template:
        tree = super()._parse(*args)
        for node in tree.find_all(nodes.Concat):  # the operator ~
            node.nodes = [
                nodes.Filter(part, _BOUNDED, [], [], None, None) for part in node.nodes
            ]
            node.set_environment(self)
        return tree


class _Generation(ext.Extension):
    """Ignores the tags around the text that a model is trained to generate."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own convention)

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


_BOUNDED = "bounded"


def _bounded(value: Any) -> Any:
    """Returns a value, unless it is too long to become text."""
    left, size = [value], 0
    while left:
        item = left.pop()
        size += 1 + _size(item)
        _check(size, _LONGEST)
        if isinstance(item, Mapping):
            left += [*item, *item.values()]
        elif isinstance(item, list | tuple):
            left += item
    return value


def _wary(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a filter that checks its arguments."""

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        _check_call(name, (*args, *options.values()))
        _bounded(args)
        return function(*args, **options)

    return checked


def _check_call(name: str, values: Sequence[Any]) -> None:
    """Checks a call of a filter or method; the first value is what it is applied to."""
    for value in values[1:]:
        if isinstance(value, int):
            _check(value, _LARGEST)
    texts = [value for value in values if isinstance(value, str)]
    if name.startswith("format"):
        _check_format(values[0], None)
    elif name == "replace" and len(texts) > 2:
        _check(texts[0].count(texts[1]) * len(texts[2]), _LONGEST)
    elif name == "join":
        _check(sum(map(_size, values)) * max(map(len, texts), default=0), _LONGEST)


def _check_format(text: Any, _: Any) -> None:
    if isinstance(text, str) and _WIDTH.search(text):
        raise _TooMuch("it asks for a format of too large a width")


def _check_sum(left: Any, right: Any) -> None:
    _check(_size(left) + _size(right), _LONGEST)


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check(left.bit_length() + right.bit_length(), _MOST_BITS)
    for many, one in ((left, right), (right, left)):
        if isinstance(many, int):
            _check(many * _size(one), _LONGEST)


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check(left.bit_length() * abs(right), _MOST_BITS)


_CHECKS: dict[str, Callable[[Any, Any], None]] = {
    "+": _check_sum,
    "*": _check_product,
    "**": _check_power,
    "%": _check_format,
}


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _to_json(value: Any, **options: Any) -> str:
    """Returns plain JSON; jinja's own filter escapes it for HTML."""
    return json.dumps(value, **{"ensure_ascii": False} | options)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
