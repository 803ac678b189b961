"""The flags of the base config, which every point's command repeats."""

import re
import typing
from collections.abc import Iterable, Sequence

from kdjax.config.parsing import check_key
from kdjax.config.schema import Config
from kdjax.core.errors import UsageError
from kdjax.sweeps.points import Point

_FLAG = re.compile(r"--?(no)?config(?:\.([\w.]+))?(=.*)?", re.DOTALL)


def read(argv: Sequence[str]) -> tuple[str, ...]:
    """Returns --config and the flags of its keys, each as one argument.

    Args:
        argv: A command line that absl has parsed, without the program's name.

    Raises:
        UsageError: Flags stand in a file.

    Example:
        >>> read(["--config.seed", "3", "--set", "seeds=2", "--config", "x.py"])
        ('--config=x.py', '--config.seed=3')
    """
    found, left = [], list(argv)
    while left:
        argument = left.pop(0)
        if re.match(r"--?flagfile\b", argument):
            raise UsageError(
                "a sweep takes no --flagfile: its points' commands would not have it"
            )
        flag = _FLAG.fullmatch(argument)
        if flag is None:
            continue
        if flag[3] is None and not (flag[1] or _is_switch(flag[2], left)):
            argument = f"{argument}={left.pop(0)}"
        found.append(argument)
    return tuple(sorted(found, key=lambda flag: "." in flag.partition("=")[0]))


def check(flags: Iterable[str], points: Iterable[Point]) -> None:
    """Raises if a flag sets a key that the points set as well.

    Args:
        flags: What `read` returned.
        points: The points.
    """
    swept = {key for point in points for key in point.overrides}
    for flag in flags:
        name = flag.partition("=")[0]
        found = _FLAG.fullmatch(name)
        key = found[2] if found else None
        for other in swept:
            if key and f"{key}.".startswith(f"{other}."):
                raise UsageError(
                    f"{name} sets what is swept ({other}), so it would do nothing; "
                    "remove one of them"
                )


def _is_switch(key: str | None, left: Sequence[str]) -> bool:
    """Returns whether a key's flag takes no value of its own.

    Args:
        key: The key.
        left: The arguments after the flag.
    """
    hint = None if key is None else check_key(Config, key, "config")
    # Whether a key that is a truth value or a word is a switch, its default decides.
    if any(isinstance(choice, bool) for choice in typing.get_args(hint)):
        return not left or left[0].startswith("-")
    return hint is bool
