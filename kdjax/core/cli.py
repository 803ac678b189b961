"""What every command line shares: one line and exit code 2 for a user's mistake."""

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from absl import app, flags, logging

from kdjax.core.errors import UsageError

_INTERRUPTED = 130  # what shells report after Ctrl-C


def run(
    main: Callable[[list[str]], None],
    *,
    check: Callable[[Sequence[str]], None] = lambda argv: None,
    stopped: str = "stopped",
) -> NoReturn:
    """Parses the flags, calls `main(argv)` and exits.

    A mistake in the flags or the config, a `UsageError`, a run that diverged or a file
    system error (`OSError`) prints one line and exits with status 2; Ctrl-C prints
    `stopped`.

    Args:
        main: The command.
        check: Called with the command line when the flags cannot be parsed; may raise
            a `UsageError` that is more specific than the parser's own message.
        stopped: What Ctrl-C prints.
    """

    def guarded(argv: list[str]) -> None:
        try:
            if len(argv) > 1:
                raise UsageError(
                    f"unexpected argument {argv[1]!r}; flags start with --"
                )
            main(argv)
        except (UsageError, FloatingPointError) as error:
            _fail(error)
        except OSError as error:
            if error.errno is None:  # a library's own error, not the file system's
                raise
            _fail(f"{error.strerror}: {error.filename or 'while writing'}")
        except KeyboardInterrupt:
            print(stopped, file=sys.stderr)
            sys.exit(_INTERRUPTED)

    app.run(guarded, flags_parser=partial(_parse, check=check))
    sys.exit(0)


def _parse(argv: list[str], check: Callable[[Sequence[str]], None]) -> list[str]:
    if {"--help", "-h", "-help"} & set(argv):
        print(sys.modules["__main__"].__doc__, flags.FLAGS.main_module_help(), sep="\n")
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
        if flags.FLAGS["verbosity"].using_default_value:
            logging.set_verbosity(logging.WARNING)  # absl would choose INFO
        return rest
    # A config file is the user's own code, run while the flags are parsed: whatever
    # it raises is for the user to fix.
    except Exception as error:
        _fail(_explain(error, argv, check))


def _explain(
    error: Exception, argv: list[str], check: Callable[[Sequence[str]], None]
) -> str:
    """Returns a readable message for what the parser or a config file raised."""
    try:
        check(argv)
    except UsageError as better:
        return str(better)
    # The message contains the config file's traceback; its last line is enough.
    text = str(error.args[0] if isinstance(error, KeyError) else error)
    if re.fullmatch(r"'?\w+'?", text):  # of a key in a mapping, just the name is said
        return f"the config has no key {text} to override"
    head, is_traced, trace = text.partition("Traceback (most recent call last)")
    return f"{head} {trace.strip().splitlines()[-1]}" if is_traced else head


def _fail(message: object) -> NoReturn:
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)
