"""What ml_collections, absl or a config file raised, as one line that says what to do.

Neither of the two libraries names a config file's line, or a key's whole path.
"""

import dataclasses
import pathlib
import re
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

import ml_collections

from kdjax.config.packaged import unknown
from kdjax.config.parsing import advice, check_key
from kdjax.config.schema import Config, ScheduleConfig
from kdjax.core.errors import UsageError

# Code under these directories is not the user's.
_INSTALLED = tuple(
    str(pathlib.Path(directory)) + "/"
    for directory in (
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("purelib"),
        pathlib.Path(ml_collections.__file__).parents[1],
        pathlib.Path(__file__).parents[1],
    )
)
_SCHEDULE = dataclasses.asdict(ScheduleConfig())
_LONGEST = 300  # the most characters of what a config file raised
MISSING = "--config is missing, such as --config=configs/gpt_small.py"
_UNKNOWN_KEY = re.compile(r"""(?:Key "|')(\w+)["'](?: does not exist|\n|$)""")
_NOT_NESTED = re.compile(r"does not support indexing\. Attempting to lookup: (\S+)")
_NOT_GIVEN = re.compile(r"get_config\(\) missing \d+ required positional argument")
_NOT_TAKEN = re.compile(r"get_config\(\) takes \d+ positional arguments? but")


def explain(error: BaseException, argv: Sequence[str]) -> str | None:
    """Returns what the user should change, or None if the error says it itself.

    Args:
        error: What was raised while the flags were parsed or the config was read.
        argv: The command line.
    """
    given = re.findall(r"^--?config[=\n](.*)$", "\n".join(argv), re.M)
    if not given:
        return MISSING if _overridden(argv) else None
    path, _, argument = given[0].partition(":")
    if not path:
        return MISSING
    if path == "kdjax" and not pathlib.Path(path).is_file():
        return unknown(argument.partition(":")[0])
    if not pathlib.Path(path).exists():
        return f"--config={path} does not exist"
    if pathlib.Path(path).suffix != ".py":
        return f"--config={path} is not a Python file (.py) with a get_config()"
    for cause in _chain(error):
        if isinstance(cause, UsageError):
            return str(cause)
        if (found := _in_config_file(cause)) is not None:
            return found
    try:
        _check_flags(argv)
    except UsageError as better:
        return str(better)
    causes = "\n".join(_text(cause) for cause in _chain(error))
    return _of_config_file(causes, path, argument) or _of_override(causes, argv)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and what it was raised from, the first cause first."""
    if error is not None:
        yield from _chain(error.__cause__ or error.__context__)
        yield error


def _in_config_file(error: BaseException) -> str | None:
    """Returns where in the user's own code an error lies, and what it is."""
    if (
        isinstance(error, SyntaxError)
        and error.lineno
        and error.filename != "<unknown>"
    ):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    lines = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if _is_the_users(frame)
    ]
    if not lines:
        return None
    frame, number = lines[-1]
    file = frame.f_code.co_filename
    code = traceback.FrameSummary(file, number, "").line
    return f"{file}, line {number}, {str(code)[:_LONGEST]!r}: {_said(error)}"


def _is_the_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    is_file = not file.startswith("<")
    return is_file and not str(pathlib.Path(file).absolute()).startswith(_INSTALLED)


def _said(error: BaseException) -> str:
    """Returns what an error in a config file says; an unknown key with the nearest."""
    text = _text(error)
    if isinstance(error, AttributeError | KeyError):
        owner = _config_of(error)
        found = _UNKNOWN_KEY.match(text)
        if owner is not None and found:
            name = found.group(1)
            if not owner:
                return f"{name!r} cannot be added; assign the mapping as a whole"
            return f"{name!r} does not exist; {advice(name, owner)}"
    if re.match(r"'(float|int)' object has no attribute '(start|end|kind)'", text):
        return f"it is a number; assign a schedule as a whole: {_SCHEDULE}"
    first = text.splitlines()[0] if text else ""
    shown = f"{type(error).__name__}: {first}".removesuffix(": ")
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def _config_of(error: BaseException) -> ml_collections.ConfigDict | None:
    """Returns the mapping that did not have a key."""
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        owner = frame.f_locals.get("self")
        if isinstance(owner, ml_collections.ConfigDict):
            return owner
    return None


def _text(error: BaseException) -> str:
    """Returns an error's message; that of a KeyError would be escaped."""
    inner = error.args[0] if error.args else ""
    if isinstance(inner, BaseException):
        return _text(inner)
    return str(inner) if isinstance(error, KeyError) else str(error)


def check_single(argv: Sequence[str]) -> None:
    """Raises if several config files are given, of which absl would take the last."""
    if sum(bool(re.match("--?config(=|$)", argument)) for argument in argv) > 1:
        raise UsageError("--config is given twice; give one config file")


def _check_flags(argv: Sequence[str]) -> None:
    """Raises on an override of an unknown key, and on a config given twice."""
    check_single(argv)
    for key in _overridden(argv):
        if not re.fullmatch(r"\w+(\.\w+)*", key):
            raise UsageError(
                f"--config.{key} names no key; write --config.NAME.NAME=VALUE without "
                "spaces, and a tuple as a whole"
            )
        check_key(Config, key, "config")


def _overridden(argv: Sequence[str]) -> list[str]:
    """Returns the keys that flags override, without "config."."""
    found = (re.match(r"--?(?:no)?config\.([^=]*)", argument) for argument in argv)
    return [match.group(1) for match in found if match]


def _of_config_file(causes: str, path: str, argument: str) -> str | None:
    """Returns what is wrong with the config file or with its argument."""
    if _NOT_TAKEN.search(causes):
        return f"{path} takes no argument; it was given {argument!r}"
    if _NOT_GIVEN.search(causes):
        return f"{path} needs an argument, as --config={path}:ARGUMENT"
    if "has no attribute 'get_config'" in causes:
        return f"{path} has no get_config(), the function that returns the config"
    return None


def _of_override(causes: str, argv: Sequence[str]) -> str | None:
    """Returns what is wrong with a flag that overrides a key of this very config."""
    if found := _NOT_NESTED.search(causes):
        parent = found.group(1).rpartition(".")[0]
        return (
            f"config.{parent} is a number in this config; make it a schedule as a "
            f'whole: --config.{parent}="{_SCHEDULE}"'
        )
    if found := _UNKNOWN_KEY.search(causes):
        name = found.group(1)
        keys = [key for key in _overridden(argv) if name in key.split(".")]
        named = re.search(r'Did you mean "(\w+)"', causes)
        near = (
            f"did you mean {named.group(1)}?" if named else "a config file can add it"
        )
        if keys:
            return f"config.{keys[0]}: this config has no {name!r}; {near}"
    return None
