"""The command that runs an experiment again, from its config alone."""

import shlex
from collections.abc import Mapping
from typing import Any

from kdjax.config.packaged import load_config
from kdjax.report.many.overrides import flat, is_same

_BASE = "kdjax:gpt_small"  # wherever kdjax is installed


def command(config: Mapping[str, Any], workdir: str) -> str:
    """Returns what runs a config in a directory; "" if no command line can.

    Which file a config came from is not known. But every key can be set on the command
    line, whatever the file: except those of several teachers, whose names are free.

    Args:
        config: The config, nested.
        workdir: The experiment's directory.
    """
    wanted, base = flat(config), flat(load_config(_BASE).to_dict())
    changed = {
        key: value
        for key, value in wanted.items()
        if key not in base or not is_same(value, base[key])
    }
    if any(key.startswith("teachers.") for key in changed):
        return ""
    flags = [
        f"--config.{key}={value if isinstance(value, str) else repr(value)}"
        for key, value in changed.items()
    ]
    words = ["python", "-m", "kdjax.main", f"--config={_BASE}", *flags]
    return shlex.join([*words, f"--workdir={workdir}"])
