"""The one exception that means: the user can fix this."""


class UsageError(Exception):
    """A mistake the user can fix; the message is one line saying what to change.

    The command lines print it without a traceback and exit with status 2.
    """
