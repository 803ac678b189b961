"""Compiled programs that outlive the process: jax's persistent compilation cache."""

import contextlib
import hashlib
import os
import pathlib
import platform
from typing import Any

import jax
from etils import epath

_LEVEL = "xla_backend_optimization_level"
_SHORTEST = 0.1  # seconds of compilation below which a cache lookup saves nothing


def keep_compiled(directory: epath.Path | None) -> None:
    """Lets later processes reuse what this one compiles; call it before compiling.

    A directory that the user set with `JAX_COMPILATION_CACHE_DIR` takes precedence.
    Several CPU devices of one process keep nothing: with a program from the cache they
    wait for each other for ever, one in a first collective, one in a second (jax 0.10).

    Args:
        directory: Where compiled programs are kept; None disables the cache.
    """
    is_many = jax.default_backend() == "cpu" and jax.local_device_count() > 1
    if directory is None or is_many:
        jax.config.update("jax_enable_compilation_cache", False)
    elif jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        # A program compiled for another processor's instruction set may not run here.
        path = directory / _processor()
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST)


def little_optimised() -> dict[str, Any] | None:
    """Returns `jax.jit`'s compiler options for programs that run once or a few times.

    On CPUs, optimising such code takes longer than it saves. Elsewhere there are none,
    nor where `XLA_FLAGS` sets a level.
    """
    options = well_optimised(jax.default_backend())
    # 0 would round otherwise: products and sums one by one
    return options and {_LEVEL: 1}


def well_optimised(platform: str) -> dict[str, Any] | None:
    """Returns the compiler options for a program that runs many times on a platform.

    On CPUs, XLA's highest level takes longer to compile than the one below it and makes
    no faster steps; results are the same to the bit (jax 0.10). Elsewhere there are
    none, nor where `XLA_FLAGS` sets a level.
    """
    if platform != "cpu" or _LEVEL in os.environ.get("XLA_FLAGS", ""):
        return None
    return {_LEVEL: 2}


def _processor() -> str:
    """Returns a short hash of this machine's processor features."""
    features = platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        names = ("flags", "Features")  # the names used on x86 and Arm
        features += next((line for line in lines if line.startswith(names)), "")
    return hashlib.sha256(features.encode()).hexdigest()[:8]
