"""The example configs, wherever kdjax is installed: `kdjax:gpt_small`."""

import pathlib
import re
import runpy
from typing import Any

from kdjax.core.errors import UsageError

_NAMED = re.compile(r"^((?:--?config=)?)kdjax:(\w+)")


def names() -> list[str]:
    """Returns the names of the example configs."""
    return sorted(path.stem for path in _directory().glob("*.py"))


def resolve(argument: str) -> str:
    """Returns an argument of a command line with an example's name as its path.

    Example:
        >>> resolve("--config=kdjax:gpt_small:scarce").endswith("gpt_small.py:scarce")
        True
        >>> resolve("--workdir=kdjax:gpt_small")
        '--workdir=kdjax:gpt_small'
    """
    found = _NAMED.match(argument)
    if found is None or found[2] not in names():
        return argument
    return f"{found[1]}{_directory() / found[2]}.py{argument[found.end() :]}"


def load_config(name: str) -> Any:
    """Returns the config of a file, as `--config` takes it, for a notebook to change.

    Args:
        name: FILE or FILE:ARGUMENT, where FILE may be an example's name: kdjax:NAME.

    Raises:
        UsageError: There is no such file, or it has no `get_config`.

    Example:
        >>> config = load_config("kdjax:gpt_small:scarce")
        >>> config.student.train.steps
        2000
    """
    path, _, argument = resolve(name).partition(":")
    if path == "kdjax":
        raise UsageError(unknown(argument))
    if not pathlib.Path(path).is_file():
        raise UsageError(f"the config {path} does not exist")
    try:
        get_config = runpy.run_path(path).get("get_config")
    except SyntaxError as error:
        raise UsageError(f"{path} cannot be read as Python ({error})") from None
    if get_config is None:
        raise UsageError(f"{path} has no get_config()")
    return get_config(argument) if argument else get_config()


def unknown(name: str) -> str:
    """Returns what to tell a user who named an example that does not exist."""
    return f"kdjax has no example config {name!r}; it has {', '.join(names())}"


def _directory() -> pathlib.Path:
    """Returns where the examples are: in a wheel inside, in a clone beside kdjax."""
    package = pathlib.Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
