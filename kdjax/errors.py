"""The one exception that means that the user can fix this, and what raises it."""


class UsageError(Exception):
    """A mistake the user can mend; the message is one line saying what to change.

    The command lines print it without a traceback and exit with status 2.
    """


def at_least(value: int, least: int, path: str) -> None:
    """Raises unless a value of the config is large enough; `path` names it."""
    if value < least:
        raise UsageError(f"{path} must be at least {least}; it is {value}")


def between(value: float, low: float, high: float, path: str) -> None:
    """Raises unless a value of the config is in [low, high]; `path` names it."""
    if not low <= value <= high:
        raise UsageError(f"{path} must be in [{low:g}, {high:g}]; it is {value:g}")
