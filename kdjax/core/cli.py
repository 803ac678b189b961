"""What every command line shares: help, one line for a mistake, exit codes."""

import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from absl import app, flags, logging

from kdjax.core.errors import UsageError
from kdjax.core.huge_pages import use_huge_pages
from kdjax.core.leaving import promptly
from kdjax.core.mirrors import spoken
from kdjax.core.stopping import (
    INTERRUPTED,
    Preempted,
    has_ended,
    obey,
    stop_at_once,
)

_FAILED, _MISTAKEN = 1, 2
_HELP = {"help", "h", "helpshort", "helpfull", "?"}
_LAST_WORDS = 20.0  # seconds that libraries' threads get at the end of a failure

Explain = Callable[[Exception, Sequence[str]], str | None]


def run(
    main: Callable[[list[str]], None],
    *,
    explain: Explain = lambda error, argv: None,
    stopped: str = "stopped",
    takes_arguments: bool = False,
) -> NoReturn:
    """Parses the flags, calls `main(argv)` and exits.

    A mistake in the flags or the config or another `UsageError` prints one line and
    exits with status 2; a run that diverged or a file system error (`OSError`) prints
    one line and exits with status 1; Ctrl-C prints `stopped` and exits with 130, and
    so does SIGTERM with 42.

    Args:
        main: The command.
        explain: From what the flags' parser raised and the command line to a message
            that is clearer than the parser's own, or None.
        stopped: What Ctrl-C and SIGTERM print.
        takes_arguments: Whether `main` takes arguments that are no flags.
    """

    def guarded(argv: list[str]) -> None:
        try:
            if len(argv) > 1 and not takes_arguments:
                raise UsageError(
                    f"unexpected argument {argv[1]!r}; flags start with --"
                )
            main(argv)
            obey()
        except UsageError as error:
            _fail(error)
        except FloatingPointError as error:
            _fail(error, _FAILED)
        except OSError as error:
            if error.errno is None:  # a library's own error, not the file system's
                raise
            _fail(f"{error.strerror}: {error.filename or 'while writing'}", _FAILED)
        except KeyboardInterrupt:
            _end(stopped, INTERRUPTED)
        except Preempted as error:
            _end(stopped, int(error.code or 0))

    use_huge_pages()
    stop_at_once(stopped)
    app.run(promptly(guarded), flags_parser=partial(_parse, explain=explain))
    sys.exit(0)


def _parse(argv: list[str], explain: Explain) -> list[str]:
    if _HELP & {argument.lstrip("-") for argument in argv if argument[:1] == "-"}:
        print(sys.modules["__main__"].__doc__, flags.FLAGS.main_module_help(), sep="\n")
        sys.exit(0)
    logging.set_verbosity(logging.ERROR)  # while a config file is read
    try:
        rest = flags.FLAGS(argv)
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # absl would choose INFO
        return rest
    # A config file is the user's own code, run while the flags are parsed: whatever
    # it raises is for the user to fix.
    except Exception as error:
        missing = re.search(
            r"Flag (--\w+) must have a value other than None", str(error)
        )
        default = f"{missing[1]} is missing" if missing else error
        _fail(explain(error, argv) or default)


def _fail(message: object, status: int = _MISTAKEN) -> NoReturn:
    _end(f"error: {' '.join(spoken(str(message)).split())}", status)


def _end(said: str, status: int) -> NoReturn:
    """Prints the last line and exits, even if a library's thread waits for ever."""
    print(said, file=sys.stderr, flush=True)
    has_ended()
    timer = threading.Timer(_LAST_WORDS, os._exit, [status])
    timer.daemon = True
    timer.start()
    sys.exit(status)
