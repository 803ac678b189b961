"""Which steps of a run are traced, as a config spells it."""

import re

from kdjax.core.errors import UsageError


def read_profile(profile: str) -> range:
    """Returns the steps that "FIRST:LAST" names, both included; "": none.

    Raises:
        UsageError: It is no such range.

    Example:
        >>> list(read_profile("10:12"))
        [10, 11, 12]
    """
    if not profile:
        return range(0)
    found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", profile)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 1 <= first <= last:
        raise UsageError(
            "config.profile must be FIRST:LAST, two steps in order, such as 10:15; it "
            f"is {profile!r}"
        )
    return range(first, last + 1)
