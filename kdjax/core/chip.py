"""Which accelerator this machine has, asked before jax starts."""

import pathlib
import re
from collections.abc import Mapping
from typing import Literal

Chip = Literal["v3", "v4", "v5e", "v5p", "v6e", "v7x", "nvidia"]

_GOOGLE = "0x1ae0"  # the vendor of TPUs on the PCI bus
_BY_DEVICE: Mapping[str, Chip] = {
    "0x0027": "v3",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "v7x",
}
# How the types of slices begin, such as v5litepod-16.
_BY_TYPE: Mapping[str, Chip] = {
    "v3": "v3",
    "v4": "v4",
    "v5litepod": "v5e",
    "v5e": "v5e",
    "v5p": "v5p",
    "v6e": "v6e",
    "tpu7x": "v7x",
}
# The driver's, a container's, and that of Windows' Linux.
_NVIDIA = ("dev/nvidia0", "dev/nvidiactl", "dev/dxg")


def find_chip(
    environ: Mapping[str, str], root: pathlib.Path = pathlib.Path("/")
) -> Chip | None:
    """Returns the kind of accelerator that jax will find; None: none that is known.

    jax itself tells only once its backend has started, when it is too late to set
    flags. This asks what Google sets in a TPU's environment, then the PCI bus, as jax
    does, then for NVIDIA's devices; a platform that `JAX_PLATFORMS` leaves out is not
    there.

    Args:
        environ: The process's environment.
        root: The file system's.
    """
    wanted = environ.get("JAX_PLATFORMS", "")
    platforms = set(wanted.split(",")) if wanted else {"tpu", "cuda", "gpu"}
    if "tpu" in platforms and (found := _tpu(environ, root)):
        return found
    is_nvidia = any((root / path).exists() for path in _NVIDIA)
    return "nvidia" if is_nvidia and platforms & {"cuda", "gpu"} else None


def _tpu(environ: Mapping[str, str], root: pathlib.Path) -> Chip | None:
    kind = re.match(r"\w+", environ.get("TPU_ACCELERATOR_TYPE", "").lower())
    if kind and kind[0] in _BY_TYPE:
        return _BY_TYPE[kind[0]]
    for vendor in sorted(root.glob("sys/bus/pci/devices/*/vendor")):
        try:
            if vendor.read_text().strip() == _GOOGLE:
                device = vendor.with_name("device").read_text().strip()
                if device in _BY_DEVICE:
                    return _BY_DEVICE[device]
        except OSError:  # it was unplugged, or is not for us to read
            continue
    return None
