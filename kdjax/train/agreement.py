"""What the processes of a run must do after the same step: save, or stop."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

SAVE = 1  # signals, which ask to stop, have larger numbers


class Agreement:
    """Makes known to all processes what any of them asks for.

    Among several, a number of each goes through the devices besides the steps, so that
    nobody waits: the answer is that to what was asked for a step earlier.
    """

    def __init__(self, mesh: Mesh) -> None:
        """Compiles what takes the largest number of all devices.

        Args:
            mesh: All devices.
        """
        devices = Mesh(mesh.devices.reshape(-1), ("device",))
        self._split = NamedSharding(devices, P("device"))
        self._largest = jax.jit(jnp.max, out_shardings=NamedSharding(devices, P()))
        self._earlier: jax.Array | None = None

    def __call__(self, asked: int) -> int:
        """Returns what all processes must do now; each must call it after each step.

        Args:
            asked: What this one asks for: 0, `SAVE` or the number of a signal.
        """
        if jax.process_count() == 1:
            return asked
        local = np.full(1, asked, np.int32)
        pieces = [jax.device_put(local, x) for x in self._split.addressable_devices]
        shape = (self._split.num_devices,)
        every = jax.make_array_from_single_device_arrays(shape, self._split, pieces)
        earlier, self._earlier = self._earlier, self._largest(every)
        return 0 if earlier is None else int(jax.device_get(earlier))
