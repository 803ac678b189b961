"""The devices that a run is planned for, which need not be here."""

import difflib
import math
import re
from typing import Any, NamedTuple

from kdjax.core.errors import UsageError
from kdjax.parallel.chips import CHIPS, Chip, Cuda, named

_TOPOLOGY = re.compile(r"(?:(\d+)x)?([a-z][\w-]*):(\d+(?:x\d+)*)", re.I)
_DEVICES = re.compile(r"(\d+)x([a-z][\w-]*)", re.I)
_MOST = 1 << 20  # devices; no machine known comes near
_COMPILER = {"v7x": "tpu7x"}  # libtpu's names that differ
_EXAMPLES = "--topology=v5p:4x4x4 or --devices=8xH100"


class Target(NamedTuple):
    """Devices of one kind.

    Attributes:
        chip: What they are.
        shape: How a slice's chips lie in their torus; () for a switch.
        slices: Slices of a TPU, or hosts of GPUs, which a slower network links.
        per_slice: Devices of each.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int
    per_slice: int

    @property
    def devices(self) -> int:
        """The number of devices."""
        return self.slices * self.per_slice

    @property
    def hosts(self) -> int:
        """The number of machines that feed them."""
        return self.slices * -(-self.per_slice // self.chip.host)

    @property
    def name(self) -> str:
        """The target as its flag spells it."""
        if not self.shape:
            return f"{self.devices}x{self.chip.name}"
        slices = f"{self.slices}x" if self.slices > 1 else ""
        return f"{slices}{self.chip.name}:{'x'.join(map(str, self.shape))}"


def parse_target(text: str) -> Target:
    """Returns the devices that a flag describes.

    Args:
        text: A TPU's slice as v5p:4x4x4, several as 2xv5p:4x4x4, or GPUs as 8xH100.

    Raises:
        UsageError: There is no such chip, or it is never linked so.

    Example:
        >>> parse_target("2xv5e:4x4").devices, parse_target("16xH100").slices
        (32, 2)
    """
    if found := _TOPOLOGY.fullmatch(text):
        chip = _chip(found[2])
        shape = tuple(int(size) for size in found[3].split("x"))
        if len(shape) != chip.dimensions or not 0 < math.prod(shape) <= _MOST:
            raise UsageError(f"{text!r} is no topology of {chip.name}; {_hint(chip)}")
        slices, per_slice = int(found[1] or 1), math.prod(shape) * chip.devices
    elif found := _DEVICES.fullmatch(text):
        chip, shape, count = _chip(found[2]), (), int(found[1])
        if chip.dimensions:
            raise UsageError(f"{text!r} has no topology; {_hint(chip)}")
        slices = max(count // chip.host, 1)
        per_slice = count // slices
        if count > chip.host and count % chip.host:
            raise UsageError(
                f"{count} GPUs do not fill hosts of {chip.host}; choose a multiple of "
                f"{chip.host}, or fewer"
            )
    else:
        raise UsageError(f"{text!r} names no devices; such as {_EXAMPLES}")
    if not 0 < slices * per_slice <= _MOST:
        raise UsageError(f"{text!r} has no devices, or too many")
    return Target(chip, shape, slices, per_slice)


def _chip(name: str) -> Chip:
    chip = named(name)
    if chip is None:
        names = [chip.name for chip in CHIPS]
        near = difflib.get_close_matches(name.lower(), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
        raise UsageError(f"there is no chip {name!r}; {hint}")
    return chip


def _hint(chip: Chip) -> str:
    if not chip.dimensions:
        return f"write 8x{chip.name}"
    sizes = "x".join(["4"] * chip.dimensions)
    return f"write {chip.name}:{sizes}, its chips along {chip.dimensions} dimensions"


def described(target: Target) -> list[Any]:
    """Returns jax's descriptions of the devices, to compile for without having them.

    Raises:
        Exception: The compiler is missing, or knows no such topology.
    """
    from jax.experimental import topologies

    name, shape = target.chip.name, "x".join(map(str, target.shape))
    if target.chip.platform == "tpu":
        options: dict[str, Any] = {
            "platform": "tpu",
            "topology_name": f"{_COMPILER.get(name, name)}:{shape}",
        }
        if target.slices > 1:
            options["num_slices"] = target.slices
    else:
        options = {
            "platform": "cuda",
            "topology": f"{target.slices}x1x{target.per_slice}",
            "target_config": gpu_config(target.chip),
        }
    return [*topologies.get_topology_desc(**options).devices]


def gpu_config(chip: Chip) -> str:
    """Returns what XLA calls a target config. Rates only feed its cost model."""
    assert chip.cuda is not None
    cuda: Cuda = chip.cuda
    blocks = 228 if cuda.capability[0] in (9, 10) else 100  # KiB of shared memory
    info = {
        "core_count": cuda.cores,
        "fpus_per_core": cuda.fpus,
        "threads_per_warp": 32,
        "threads_per_block_limit": 1024,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "registers_per_core_limit": 64 * 1024,
        "registers_per_block_limit": 64 * 1024,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_block_optin": (blocks - 1) * 1024,
        "shared_memory_per_core": blocks * 1024,
        "l2_cache_size": cuda.l2,
        "device_memory_size": int(chip.memory),
        "memory_bandwidth": int(chip.bandwidth),
        "clock_rate_ghz": cuda.clock,
    }
    major, minor = cuda.capability
    return "\n".join(
        [
            "gpu_device_info {",
            "cuda_compute_capability {",
            f"major: {major}",
            f"minor: {minor}",
            "}",
            *(f"{name}: {value}" for name, value in info.items()),
            "}",
            'platform_name: "CUDA"',
            "dnn_version_info { major: 9 minor: 10 patch: 0 }",
            "runtime_version { major: 13 minor: 0 patch: 0 }",
            f'device_description_str: "{chip.kinds[0]}"',
        ]
    )
