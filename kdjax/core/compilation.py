"""Compiled programs that outlive the process: jax's persistent compilation cache."""

import contextlib
import hashlib
import pathlib
import platform

import jax
from etils import epath

_SHORTEST = 0.1  # seconds of compiling, below which looking it up saves nothing


def keep_compiled(directory: epath.Path | None) -> None:
    """Lets later processes find what this one compiles; call it before it does.

    A directory that the user gave to jax itself, as `JAX_COMPILATION_CACHE_DIR`, stays.

    Args:
        directory: Where programs are kept; None: nowhere.
    """
    if directory is None:
        jax.config.update("jax_enable_compilation_cache", False)
    elif jax.config.jax_compilation_cache_dir is None:
        # A program for another processor's instructions could not run here.
        path = directory / _processor()
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST)


def _processor() -> str:
    """Returns a short hash of what this machine's processor can do."""
    features = platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        names = ("flags", "Features")  # as x86 and Arm call them
        features += next((line for line in lines if line.startswith(names)), "")
    return hashlib.sha256(features.encode()).hexdigest()[:8]
