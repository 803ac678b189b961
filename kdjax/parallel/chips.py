"""Accelerators by name: peak rate, memory and network, from the vendors' data sheets.

All rates are of one device as jax counts them. FLOP/s are those of dense bfloat16
products; sheets that give twice as much count sparse ones.
"""

from typing import NamedTuple

GIB = 2**30


class Cuda(NamedTuple):
    """What the GPU compiler must know of a GPU that is not there.

    Attributes:
        capability: The compute capability.
        cores: Streaming multiprocessors.
        fpus: float32 units of each.
        l2: Bytes of the second-level cache.
        clock: GHz.
    """

    capability: tuple[int, int]
    cores: int
    fpus: int
    l2: int
    clock: float


class Chip(NamedTuple):
    """One kind of accelerator.

    Attributes:
        name: What the planner calls it.
        kinds: How `device_kind` begins, in jax.
        flops: Peak bfloat16 FLOP/s.
        memory: Bytes that programs may use; of a GPU, all it has.
        bandwidth: Bytes/s from and to that memory.
        link: Bytes/s in one direction, of each link to a neighbour in a TPU's torus; of
            a GPU, of all that links it to the others in its host.
        dimensions: Of the torus; 0: a switch links the devices of a host.
        host: Devices a host, in groups of several hosts.
        network: Bytes/s in one direction that a host has to others, or to other slices.
        devices: jax's devices a chip.
        cuda: What the compiler must know of a GPU; None: unknown, or a TPU.
    """

    name: str
    kinds: tuple[str, ...]
    flops: float
    memory: float
    bandwidth: float
    link: float
    dimensions: int = 0
    host: int = 8
    network: float = 12.5e9
    devices: int = 1
    cuda: Cuda | None = None

    @property
    def platform(self) -> str:
        """The platform, as jax calls it."""
        return "tpu" if self.dimensions else "gpu"


_AMPERE, _ADA, _HOPPER = (8, 0), (8, 9), (9, 0)
_MIB = 2**20

# TPUs: cloud.google.com/tpu/docs; memory is what libtpu leaves to programs (v4 and v7x:
# assumed), links are as jax-ml.github.io/scaling-book has them, below the sheets.
# GPUs: nvidia.com's data sheets, of the SXM or desktop variant unless named; networks
# are those of NVIDIA's own machines, else 100 Gbit/s.
CHIPS = (
    Chip("v4", ("TPU v4",), 275e12, 31.75 * GIB, 1228e9, 45e9, 3, 4, 25e9),
    Chip(
        *("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 15.75 * GIB, 819e9, 45e9),
        *(2, 4, 25e9),
    ),
    Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 95.74 * GIB, 2765e9, 90e9, 3, 4, 25e9),
    Chip(
        *("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 31.25 * GIB, 1638e9, 90e9),
        *(2, 4, 50e9),
    ),
    # Each half of a chip is a device, and has half of its links.
    Chip(
        *("v7x", ("TPU7x", "TPU v7x"), 1153.5e12, 94.75 * GIB, 3690e9, 45e9),
        *(3, 8, 50e9, 2),
    ),
    Chip(
        *("a100-40", ("NVIDIA A100",), 312e12, 40e9, 1555e9, 300e9),
        network=200e9,
        cuda=Cuda(_AMPERE, 108, 64, 40 * _MIB, 1.41),
    ),
    Chip(
        "a100-80",
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB"),
        *(312e12, 80e9, 2039e9, 300e9),
        network=200e9,
        cuda=Cuda(_AMPERE, 108, 64, 40 * _MIB, 1.41),
    ),
    Chip(
        *("h100", ("NVIDIA H100", "NVIDIA GH200"), 989e12, 80e9, 3350e9, 450e9),
        network=400e9,
        cuda=Cuda(_HOPPER, 132, 128, 50 * _MIB, 1.98),
    ),
    Chip("h100-pcie", ("NVIDIA H100 PCIe",), 756e12, 80e9, 2000e9, 64e9),
    Chip("h100-nvl", ("NVIDIA H100 NVL",), 835e12, 94e9, 3900e9, 300e9),
    Chip(
        *("h200", ("NVIDIA H200",), 989e12, 141e9, 4800e9, 450e9),
        network=400e9,
        cuda=Cuda(_HOPPER, 132, 128, 50 * _MIB, 1.98),
    ),
    Chip(
        *("b200", ("NVIDIA B200",), 2250e12, 180e9, 7700e9, 900e9),
        network=400e9,
        cuda=Cuda((10, 0), 148, 128, 126 * _MIB, 1.97),
    ),
    Chip(
        *("l4", ("NVIDIA L4",), 121e12, 24e9, 300e9, 32e9),
        cuda=Cuda(_ADA, 58, 128, 48 * _MIB, 2.04),
    ),
    Chip(
        *("l40s", ("NVIDIA L40S",), 362e12, 48e9, 864e9, 32e9),
        cuda=Cuda(_ADA, 142, 128, 96 * _MIB, 2.52),
    ),
    Chip(
        *("a6000", ("NVIDIA RTX A6000",), 154.8e12, 48e9, 768e9, 32e9),
        cuda=Cuda((8, 6), 84, 128, 6 * _MIB, 1.8),
    ),
    Chip(
        *("rtx6000ada", ("NVIDIA RTX 6000 Ada",), 364.2e12, 48e9, 960e9, 32e9),
        cuda=Cuda(_ADA, 142, 128, 96 * _MIB, 2.5),
    ),
    Chip(
        *("rtxpro6000", ("NVIDIA RTX PRO 6000",), 503.8e12, 96e9, 1792e9, 64e9),
        cuda=Cuda((12, 0), 188, 128, 128 * _MIB, 2.62),
    ),
    Chip(
        *("rtx3090", ("NVIDIA GeForce RTX 3090",), 71e12, 24e9, 936e9, 32e9),
        cuda=Cuda((8, 6), 82, 128, 6 * _MIB, 1.7),
    ),
    Chip(
        *("rtx4090", ("NVIDIA GeForce RTX 4090",), 165.2e12, 24e9, 1008e9, 32e9),
        cuda=Cuda(_ADA, 128, 128, 72 * _MIB, 2.52),
    ),
    Chip(
        *("rtx5090", ("NVIDIA GeForce RTX 5090",), 209.5e12, 32e9, 1792e9, 64e9),
        cuda=Cuda((12, 0), 170, 128, 96 * _MIB, 2.41),
    ),
)


def named(name: str) -> Chip | None:
    """Returns the chip of that name, in letters of either case; None: unknown."""
    return next((chip for chip in CHIPS if chip.name == name.lower()), None)


def of_kind(kind: str) -> Chip | None:
    """Returns the chip that jax calls so; None if it is unknown.

    Example:
        >>> of_kind("NVIDIA H100 80GB HBM3").name, of_kind("TPU v5 lite").name
        ('h100', 'v5e')
    """
    known = [(k, chip) for chip in CHIPS for k in chip.kinds if kind.startswith(k)]
    return max(known, key=lambda pair: len(pair[0]))[1] if known else None
