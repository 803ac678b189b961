"""Runs kdjax's commands in forks of one process that has imported what they need.

To import it takes each command seconds, and no backend has started before the fork.
Doors are not imported: what they define, and in which order, is theirs.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import sys
import threading
import traceback
from typing import NoReturn

# What the commands import late; the rest comes with it.
ROOMS = ("experiment.experiment", "report", "sweeps", "generation", "evaluation")


def main() -> None:
    """Answers requests, a line of JSON each, until there are no more."""
    for name in ROOMS:
        room = importlib.import_module(f"kdjax.{name}")
        for module in pkgutil.iter_modules(getattr(room, "__path__", ())):
            if module.name not in ("__main__", "harness"):
                importlib.import_module(f"{room.__name__}.{module.name}")
    gc.freeze()  # or else each child would copy all of it
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            break
        print(json.dumps(wait(child, request["timeout"])), flush=True)
    else:
        return
    leave(become(request))


def wait(child: int, timeout: float | None) -> int:
    """Returns the child's exit status; past the time, that of who was terminated."""
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, timeout or 0.0)
    _, status = os.waitpid(child, 0)
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    return os.waitstatus_to_exitcode(status)


def leave(status: int) -> NoReturn:
    """Ends the child but for freeing what it has imported, which takes seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def become(request: dict) -> int:
    """Runs a module as `python -m` does, in the place and with the output asked for.

    Returns:
        Its exit status.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.chdir(request["cwd"])
    for number, path in enumerate((os.devnull, request["output"], request["errors"])):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0] = os.getcwd()
    module, *arguments = request["arguments"]
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
