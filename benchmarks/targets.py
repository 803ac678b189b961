"""The accelerators that programs are compiled for, and their specifications."""

from kdjax.parallel import chips
from kdjax.planning.target import gpu_config

# The package that compiles for a platform without any of its devices.
PACKAGES = {"tpu": "libtpu", "cuda": "jax-cuda13-pjrt"}

# The compiler's name of the topology, by number of devices.
_TPU_SHAPES = {
    "v5e": {1: "1x1", 2: "1x2", 4: "2x2", 8: "2x4"},
    "v5p": {1: "1x1x1", 2: "1x1x2", 4: "2x2x1", 8: "2x2x2"},
    "v6e": {1: "1x1", 2: "1x2", 4: "2x2", 8: "2x4"},
}

# bfloat16: matrix units * rows * columns * 2, for a multiply and an add.
FLOPS_PER_CYCLE = {
    "v5e": 4 * 128 * 128 * 2,
    "v5p": 8 * 128 * 128 * 2,
    "v6e": 4 * 256 * 256 * 2,
}

NAMES = (*_TPU_SHAPES, "h100")


def platform(name: str) -> str:
    """Returns jax's name for the platform."""
    return "tpu" if name in _TPU_SHAPES else "cuda"


def options(name: str, devices: int) -> dict[str, str]:
    """Returns the options for `topologies.get_topology_desc`."""
    if name in _TPU_SHAPES:
        return {"topology_name": f"{name}:{_TPU_SHAPES[name][devices]}"}
    chip = chips.named("h100")
    assert chip is not None
    return {"topology": f"1x1x{devices}", "target_config": gpu_config(chip)}
