"""The one exception that means: the user can fix this; and what others mean."""

import errno
import os


class UsageError(Exception):
    """A mistake the user can fix; the message is one line saying what to change.

    The command lines print it without a traceback and exit with status 2.
    """


def why(error: BaseException) -> tuple[int, str]:
    """Returns why something could not be read or written: an errno, and a few words.

    Args:
        error: What was raised, perhaps by a library that wraps the system's error, or
            has its own.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return cause.errno, cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split()) or type(error).__name__
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        if (words := os.strerror(number)) in text:
            return number, words
    return errno.EIO, text[:200]
