"""XLA's flags for the accelerator at hand, set before jax starts its backend.

A process dies of a flag that its compiler does not know, so none is set that is not
spelled in the compiler's library.
"""

import importlib.util
import mmap
import os
import pathlib
import sys
from collections.abc import Mapping, MutableMapping, Sequence

from kdjax.core.chip import Chip, find_chip
from kdjax.core.errors import UsageError
from kdjax.core.leaving import is_first
from kdjax.core.logging import say

SWITCH = "KDJAX_XLA_DEFAULTS"
_SWITCHED = {"": True, "1": True, "true": True, "0": False, "false": False}

# Gathers and reduce-scatters of parameters on the SparseCores, beside the products of
# matrices; without them both are synchronous there.
_SPARSE_CORE = (
    "--xla_tpu_scoped_vmem_limit_kib=65536",
    "--xla_tpu_enable_sparse_core_reduce_scatter_v2=true",
    "--xla_tpu_enable_sparse_core_collective_offload_all_gather=true",
    "--xla_tpu_enable_sparse_core_collective_offload_2d_all_gather=true",
    "--xla_tpu_enable_all_gather_offload_tracing=true",
    "--xla_tpu_use_tc_device_shape_on_sc=true",
    "--xla_sc_disable_megacore_partitioning=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=false",
    "--xla_enable_async_all_gather=true",
    "--xla_tpu_prefer_async_allgather_to_allreduce=true",
    "--xla_tpu_enable_sparse_core_collective_offload_all_reduce=true",
    "--xla_tpu_enable_sparse_core_collective_offload_reduce_scatter=true",
    "--xla_tpu_enable_sparse_core_collective_offload_3d_all_gather=true",
    "--xla_tpu_use_single_sparse_core_for_all_gather_offload=true",
    "--xla_tpu_enable_concurrent_sparse_core_offloading=true",
    "--xla_tpu_enable_sparse_core_collective_offload_nd_reduce_scatter=true",
)
FLAGS: Mapping[Chip, tuple[str, ...]] = {
    "v5p": _SPARSE_CORE,
    "v6e": _SPARSE_CORE,
    "nvidia": ("--xla_gpu_enable_latency_hiding_scheduler=true",),
}
_TPU, _ALL = "LIBTPU_INIT_ARGS", "XLA_FLAGS"


def use_xla_flags() -> None:
    """Sets this machine's flags and says so; call it before jax starts its backend.

    Raises:
        UsageError: The variable that turns this off has an unknown value.
    """
    if _has_started():
        return
    chip = find_chip(os.environ)
    said = set_flags(os.environ, chip, libraries_of(chip, os.environ))
    if said and is_first(os.environ):
        say(said)


def set_flags(
    environ: MutableMapping[str, str],
    chip: Chip | None,
    libraries: Sequence[pathlib.Path],
) -> str:
    """Adds a chip's flags to an environment.

    A flag that is set there already, to whatever value, stays as it is.

    Args:
        environ: The environment, changed in place.
        chip: The accelerator; None: there is none.
        libraries: Those that read the flags; none: jax cannot use the chip.

    Returns:
        In a line, what was set; "" if nothing was.

    Raises:
        UsageError: `KDJAX_XLA_DEFAULTS` has an unknown value.
    """
    switch = environ.get(SWITCH, "")
    if switch.lower() not in _SWITCHED:
        raise UsageError(f"{SWITCH}={switch} must be true or false")
    wanted = FLAGS.get(chip, ()) if chip and _SWITCHED[switch.lower()] else ()
    if not chip or not libraries:
        return ""
    given = f"{environ.get(_ALL, '')} {environ.get(_TPU, '')}".split()
    theirs = {_name(flag) for flag in given}
    missing = [flag for flag in wanted if _name(flag) not in theirs]
    if not missing:
        return ""
    known, variable = _known(missing, libraries), _variable(chip)
    if known:
        environ[variable] = " ".join(filter(None, [environ.get(variable), *known]))
    unknown = len(missing) - len(known)
    left_out = f"; this compiler knows no {unknown} others" if unknown else ""
    return (
        f"XLA: {len(known)} flags for {chip} added to {variable}{left_out} "
        f"({SWITCH}=false adds none)"
    )


def libraries_of(chip: Chip | None, environ: Mapping[str, str]) -> list[pathlib.Path]:
    """Returns the installed libraries that read a chip's flags; none: it is not used.

    Args:
        chip: The accelerator.
        environ: Where `TPU_LIBRARY_PATH` may name another libtpu.
    """
    if chip == "nvidia":
        plugins = _files("jax_plugins", "xla_cuda*/xla_cuda_plugin.so")
        return plugins and [*_files("jaxlib", "libjax_common.so"), *plugins]
    if given := environ.get("TPU_LIBRARY_PATH"):
        return [pathlib.Path(given)]
    return _files("libtpu", "libtpu.so")


def _variable(chip: Chip) -> str:
    return _ALL if chip == "nvidia" else _TPU


def _name(flag: str) -> str:
    """Returns the name of --name, --name=value or --noname."""
    name = flag.lstrip("-").partition("=")[0]
    return name.removeprefix("no") if name.startswith("noxla_") else name


def _known(flags: Sequence[str], libraries: Sequence[pathlib.Path]) -> list[str]:
    """Returns those of the flags whose names stand in all of the libraries."""
    for library in libraries:
        try:
            with (
                library.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            ):
                spelled = [(flag, _name(flag).encode() + b"\0") for flag in flags]
                flags = [flag for flag, name in spelled if content.find(name) >= 0]
        except (OSError, ValueError):  # not readable, or empty
            return []
    return [*flags]


def _files(package: str, pattern: str) -> list[pathlib.Path]:
    """Returns the files of an installed package that match a pattern."""
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or ()
    return [path for folder in folders for path in pathlib.Path(folder).glob(pattern)]


def _has_started() -> bool:
    """Returns whether jax has started its backend, after which it reads no flags."""
    bridge = sys.modules.get("jax._src.xla_bridge")  # jax has no public way to ask
    has_started = getattr(bridge, "backends_are_initialized", lambda: False)
    return bool(has_started())
