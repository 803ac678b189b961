"""Devices in an order in which neighbours on the mesh are neighbours in the network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils

from kdjax.core.errors import UsageError


def arranged(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """Returns the devices as an array of a mesh's sizes, the busiest axis last.

    An axis of the mesh may take a part of an axis of the torus that links a slice's
    chips. Slices, which only the data center's network links, lie along the first axis
    that their number divides, but not along the last one.

    Args:
        sizes: Of all axes; their product is the number of devices.
        devices: All devices.

    Raises:
        UsageError: The number of slices divides none of the axes that may be cut.
    """
    slices = {getattr(device, "slice_index", 0) for device in devices}
    # Processes on CPUs are no slices, and their order is that of their ranks.
    count = 1 if devices[0].platform == "cpu" else len(slices)
    axis = next((n for n, size in enumerate(sizes[:-1]) if not size % count), None)
    if axis is None:
        raise UsageError(
            f"config.mesh cannot be laid over {count} slices of devices: {count} must "
            "divide config.mesh.data or config.mesh.fsdp"
        )
    cuts = [count if n == axis else 1 for n in range(len(sizes))]
    within = [size // cut for size, cut in zip(sizes, cuts, strict=True)]
    split = {"allow_split_physical_axes": True}
    if count == 1:
        return mesh_utils.create_device_mesh(sizes, devices, **split)
    return mesh_utils.create_hybrid_device_mesh(within, cuts, devices, **split)
