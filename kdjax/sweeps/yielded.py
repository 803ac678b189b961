"""The `sweep()` of a config file, which yields points."""

import runpy
from collections.abc import Sequence
from typing import Any

from kdjax.config.mistakes import explain
from kdjax.core.errors import UsageError
from kdjax.sweeps.points import Overrides


def load(name: str, argv: Sequence[str]) -> list[Overrides] | None:
    """Returns what the `sweep()` of a config file yields.

    None: it has no such function, or that returns None, as it may for some arguments.

    Args:
        name: FILE or FILE:ARGUMENT. The argument is passed on, as to `get_config`.
        argv: The command line, for messages.

    Raises:
        UsageError: It raised something, or yields nothing that could be a point.
    """
    path, _, argument = name.partition(":")
    try:
        # Under its own name, so that the file may hold a `__main__` part.
        found: Any = runpy.run_path(path, run_name="config").get("sweep")
        if found is None:
            return None
        points = found(argument) if argument else found()
        return None if points is None else list(points)
    except Exception as error:
        # A config file is the user's own code: whatever it raises is theirs to fix.
        reason = explain(error, argv) or str(error)
        raise UsageError(f"sweep(): {reason}") from None
