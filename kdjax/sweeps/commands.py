"""The commands of points: for a shell, a SLURM array or a Kubernetes indexed job."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from kdjax.sweeps.points import Overrides

KINDS = ("plain", "slurm", "kubernetes")
PROGRAM = ("python", "-m", "kdjax.main")


def arguments(
    base: Sequence[str], overrides: Overrides, workdir: str, shared: str = ""
) -> list[str]:
    """Returns the arguments of `kdjax.main` that run a point.

    Args:
        base: Those of the base config: --config and the overrides of all points.
        overrides: The point's own.
        workdir: The point's directory.
        shared: Where what several points need is kept; "": nowhere.
    """
    own = [f"--config.{key}={as_flag(value)}" for key, value in overrides.items()]
    kept = [f"--shared={shared}"] if shared else []
    return [*base, *own, f"--workdir={workdir}", *kept]


def as_flag(value: Any) -> str:
    """Returns a value as a flag of its key takes it.

    Example:
        >>> as_flag([0, 2]), as_flag("jsd"), as_flag(1e-4), as_flag(True)
        ('(0, 2)', 'jsd', '0.0001', 'True')
    """
    return value if isinstance(value, str) else repr(_tuples(value))


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    if isinstance(value, Mapping):
        return {key: _tuples(inner) for key, inner in value.items()}
    return value


def line(command: Sequence[str]) -> str:
    """Returns a command as a line of a POSIX shell."""
    return shlex.join(command)


def slurm(commands: Sequence[Sequence[str]], *, name: str, at_once: int) -> str:
    """Returns a script for `sbatch` that runs each command as a task of an array.

    Args:
        commands: The points' commands.
        name: The job's name.
        at_once: How many tasks run at a time.
    """
    return "\n".join(
        (
            "#!/bin/bash",
            f"#SBATCH --job-name={shlex.quote(name)}",
            f"#SBATCH --array=0-{len(commands) - 1}%{at_once}",
            "# Add what your cluster asks for: partition, time, memory, GPUs.",
            *_cases("SLURM_ARRAY_TASK_ID", commands),
        )
    )


def kubernetes(
    commands: Sequence[Sequence[str]],
    *,
    name: str,
    at_once: int,
    image: str,
    directory: str,
    volume: str,
) -> str:
    """Returns the manifest of an indexed job, in JSON, which `kubectl apply` reads.

    Args:
        commands: The points' commands.
        name: The job's name.
        at_once: How many pods run at a time.
        image: The container's image, in which kdjax is installed.
        directory: The sweep's directory, where all pods mount the volume.
        volume: The name of its PersistentVolumeClaim.
    """
    script = "\n".join(_cases("JOB_COMPLETION_INDEX", commands))
    container = {
        "name": "kdjax",
        "image": image,
        "command": ["/bin/sh", "-c", script],
        # Or else jax may take the pods for the processes of one run.
        "env": [{"name": "KDJAX_PROCESSES", "value": "1"}],
        "volumeMounts": [{"name": "sweep", "mountPath": directory}],
    }
    claim = {"name": "sweep", "persistentVolumeClaim": {"claimName": volume}}
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completionMode": "Indexed",
            "completions": len(commands),
            "parallelism": min(at_once, len(commands)),
            "backoffLimitPerIndex": 3,
            "maxFailedIndexes": len(commands),
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [container],
                    "volumes": [claim],
                }
            },
        },
    }
    return json.dumps(manifest, indent=2)


def _cases(variable: str, commands: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a shell script that runs the command of an index."""
    return [
        f'case "${variable}" in',
        *(f"{index}) exec {line(c)} ;;" for index, c in enumerate(commands)),
        f'*) echo "no point ${variable}" >&2; exit 2 ;;',
        "esac",
    ]
