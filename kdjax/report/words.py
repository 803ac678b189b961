"""Results in words, as page and model card say them."""

import re
from collections.abc import Sequence

from kdjax.config.schema import ScheduleConfig
from kdjax.results.measured import Results, TeacherInfo


def origin(results: Results) -> str:
    """Returns where a student that was not new is from, in words; "" for others."""
    return next((run.origin for run in results.runs if run.role == "start"), "")


def stored_weights(teacher: TeacherInfo) -> str:
    """Returns how a loaded teacher's weights are stored, in words; "" for others."""
    if not teacher.formats:
        return ""
    return f"{bits(teacher.formats)} weights ({', '.join(teacher.formats)})"


def bits(formats: Sequence[str]) -> str:
    """Returns the width of the format that most weights have: "4-bit" for Q4_1."""
    found = re.match(r"\D+(\d+)", formats[0])
    return f"{found[1]}-bit" if found else formats[0]


def setting(value: float | ScheduleConfig) -> str:
    """Returns a number, or a schedule over the run, in words."""
    if isinstance(value, ScheduleConfig):
        return f"{value.start:g} to {value.end:g} ({value.kind})"
    return f"{value:g}"
