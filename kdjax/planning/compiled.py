"""Compiles the real train step for devices that are not here, in a fresh process.

    python -m kdjax.planning.compiled REQUEST

A compiler crash must not end the planner, and the platform must be chosen before jax
starts.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from kdjax.core.xla_flags import libraries_of, set_flags
from kdjax.parallel.chips import Chip
from kdjax.planning.program import make_job
from kdjax.planning.resolve import Subject, from_json
from kdjax.planning.target import described, parse_target
from kdjax.train.loop import prepare

# The packages that compile for a platform without any of its devices.
COMPILERS = {"tpu": "libtpu", "gpu": "jax_plugins.xla_cuda13"}
OUT_OF_MEMORY = "out of memory"
_LONGEST = 160  # characters of a message
_LATEST = 3600.0  # seconds after which a compilation is given up
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # else the plugin looks for a driver
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Compiled(NamedTuple):
    """What the compiler says of a program, per device.

    Attributes:
        arguments: Bytes of state, frozen parameters and batch.
        temporary: Bytes that the step needs beside them.
        results: Bytes of new state and metrics that take no argument's place.
        seconds: What the compilation took.
    """

    arguments: int
    temporary: int
    results: int
    seconds: float

    @property
    def total(self) -> int:
        """All bytes that a device must have."""
        return self.arguments + self.temporary + self.results


def is_installed(platform: str) -> bool:
    """Returns whether a platform's compiler is here."""
    package, _, inner = COMPILERS[platform].partition(".")
    if importlib.util.find_spec(package) is None:
        return False
    return not inner or importlib.util.find_spec(COMPILERS[platform]) is not None


def ask(request: Mapping[str, Any], **environment: str) -> dict[str, Any]:
    """Returns what a fresh process finds out about a subject.

    Args:
        request: A subject, as `to_json` gives it.
        environment: Further variables of the process.

    Returns:
        The fields of `Compiled`, or {"error": why there is none}.
    """
    # Models of a single device differ from those of several.
    is_single = parse_target(request["target"]).devices == 1
    devices = {"JAX_NUM_CPU_DEVICES": "1" if is_single else "2"}
    variables = os.environ | _ENVIRONMENT | devices | environment
    chip = _flags_of(parse_target(request["target"]).chip)
    set_flags(variables, chip, libraries_of(chip, variables))
    command = [sys.executable, "-m", "kdjax.planning.compiled", json.dumps(request)]
    try:
        run = subprocess.run(
            command,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=_LATEST,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"the compiler took more than {_LATEST / 60:.0f} minutes"}
    if run.returncode:
        return {"error": reason(run.stderr)}
    answer: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return answer


def _flags_of(chip: Chip) -> Any:
    """Returns the name under which `core.xla_flags` has a chip's flags."""
    return chip.name if chip.platform == "tpu" else "nvidia"


def reason(message: str) -> str:
    """Returns the relevant part of a compiler's message."""
    for words in (
        r"Used ([\d.]+\w) of ([\d.]+\w)",
        r"([\d.]+\w)\W+exceeds.*?([\d.]+\w)",
    ):
        if found := re.search(words, message):
            return f"{OUT_OF_MEMORY}: {found[1]} of {found[2]}"
    lines = message.strip().splitlines() or ["the compiler died without a word"]
    if "RESOURCE_EXHAUSTED" in message:
        return OUT_OF_MEMORY
    return lines[-1].strip()[:_LONGEST]


def measure(subject: Subject) -> dict[str, Any]:
    """Compiles in this process; see `ask`."""
    devices = described(subject.target)
    if len(devices) != subject.target.devices:
        count, name = subject.target.devices, subject.target.name
        return {"error": f"{name} has {count} devices; the compiler has {len(devices)}"}
    started = time.perf_counter()
    step: Any = prepare(make_job(subject, devices)).step
    memory = step.memory_analysis()
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "seconds": round(time.perf_counter() - started, 1),
    }


if __name__ == "__main__":
    print(json.dumps(measure(from_json(json.loads(sys.argv[1])))))
