"""The accelerators that programs are compiled for, and their specifications."""

from typing import Any

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

# The H100 SXM5, from NVIDIA's programming guide and data sheet. Memory decides whether
# a program fits; the rates only feed the compiler's cost model.
_H100: dict[str, Any] = {
    "gpu_device_info": {
        "cuda_compute_capability": {"major": 9, "minor": 0},
        "core_count": 132,
        "fpus_per_core": 128,
        "threads_per_warp": 32,
        "threads_per_block_limit": 1024,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "registers_per_core_limit": 64 * 1024,
        "registers_per_block_limit": 64 * 1024,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_block_optin": 227 * 1024,
        "shared_memory_per_core": 228 * 1024,
        "l2_cache_size": 50 * 2**20,
        "device_memory_size": 80 * 10**9,
        "memory_bandwidth": 3350 * 10**9,
        "clock_rate_ghz": 1.98,
    },
    "platform_name": "CUDA",
    "dnn_version_info": {"major": 9, "minor": 10, "patch": 0},
    "runtime_version": {"major": 13, "minor": 0, "patch": 0},
    "device_description_str": "NVIDIA H100 80GB HBM3",
}

NAMES = (*_TPU_SHAPES, "h100")


def platform(name: str) -> str:
    """Returns jax's name for the platform."""
    return "tpu" if name in _TPU_SHAPES else "cuda"


def options(name: str, devices: int) -> dict[str, str]:
    """Returns the options for `topologies.get_topology_desc`."""
    if name in _TPU_SHAPES:
        return {"topology_name": f"{name}:{_TPU_SHAPES[name][devices]}"}
    return {"topology": f"1x1x{devices}", "target_config": _text_proto(_H100)}


def _text_proto(fields: dict[str, Any]) -> str:
    lines = []
    for name, value in fields.items():
        if isinstance(value, dict):
            lines.append(f"{name} {{\n{_text_proto(value)}\n}}")
        else:
            text = f'"{value}"' if isinstance(value, str) else value
            lines.append(f"{name}: {text}")
    return "\n".join(lines)
