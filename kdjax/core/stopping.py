"""How a command is stopped, by Ctrl-C or SIGTERM: at once, or after a training step."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130  # the exit code after Ctrl-C, as shells report it
PREEMPTED = 42  # the exit code after SIGTERM: start the command again
_patience = 5.0  # seconds that a command gets to end by itself
_is_deferred = False
_asked = 0  # the number of the last signal that was not deferred
_has_ended = threading.Event()


class Preempted(SystemExit):
    """Raised by SIGTERM; where nobody catches it, the exit code is `PREEMPTED`."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


class Stop:
    """Whether this process was asked to stop.

    Attributes:
        number: The number of the signal; 0: it was not.
        is_agreed: Whether all processes of the run know, and stop after this step.
    """

    number: int = 0
    is_agreed: bool = False

    def obey(self) -> None:
        """Raises what the signal would have raised, if there was one."""
        if self.number:
            raise _exception(self.number)


@contextlib.contextmanager
def after_the_step() -> Iterator[Stop]:
    """Lets SIGTERM and the first Ctrl-C wait for the end of the block.

    The block looks at what is yielded, and ends early. A second Ctrl-C is not deferred.
    Only the main thread gets signals; in another, nothing ever asks.

    Raises:
        Preempted: There was a SIGTERM.
        KeyboardInterrupt: There was a Ctrl-C.
    """
    global _is_deferred
    stop = Stop()
    stop.number = _asked

    def note(number: int, frame: FrameType | None) -> None:
        is_again = stop.number == signal.SIGINT == number
        stop.number = max(number, stop.number)
        if is_again:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {n: signal.signal(n, note) for n in (signal.SIGTERM, signal.SIGINT)}
    _is_deferred = True
    try:
        yield stop
    finally:
        _is_deferred = False
        for number, handler in before.items():
            signal.signal(number, handler)
    stop.obey()


@contextlib.contextmanager
def takes_to_stop(seconds: float) -> Iterator[None]:
    """Gives a command that is stopped within the block so much more time to end."""
    global _patience
    _patience += seconds
    try:
        yield
    finally:
        _patience -= seconds


def obey() -> None:
    """Raises again what a signal has raised, if there was one.

    Python drops what is raised while it frees an object, and a command that was asked
    to stop would come to its end as if nothing had happened.
    """
    if _asked:
        raise _exception(_asked)


def has_ended() -> None:
    """Tells the thread of `stop_at_once` that the command has said its last line."""
    _has_ended.set()


def stop_at_once(said: str) -> None:
    """Makes SIGTERM and Ctrl-C raise, and end the process if that is not enough.

    Python raises only between its own instructions, and not everything that is raised
    arrives. While a program is compiled or a lock is waited for, a thread ends the
    process in its place: what is on disk is whole at any moment.

    Args:
        said: What is printed then.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        global _asked
        _asked = number
        raise _exception(number)

    def watch() -> None:
        while number := int.from_bytes(reader.recv(1)):
            if number not in (signal.SIGTERM, signal.SIGINT) or _is_deferred:
                continue
            if not _has_ended.wait(_patience) and not _is_deferred:
                print(said, file=sys.stderr, flush=True)
                os._exit(PREEMPTED if number == signal.SIGTERM else INTERRUPTED)

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True, name="signals").start()


def _exception(number: int) -> BaseException:
    return Preempted() if number == signal.SIGTERM else KeyboardInterrupt()
