"""KL(teacher||model) by how unsure the teacher is: where a student differs."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdjax.core.metrics import Mean
from kdjax.results.measured import EntropyBucket

# The least entropy of each bucket, in nats. Fixed, so that models can be compared.
EDGES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)


def by_entropy(
    entropy: Float[Array, "B T"],
    kl: Float[Array, "B T"],
    agreement: Float[Array, "B T"],
    weights: Float[Array, "B T"],
) -> dict[str, Mean]:
    """Returns the means of entropy, KL and agreement in each bucket of `EDGES`."""
    index = jnp.searchsorted(jnp.asarray(EDGES), entropy.ravel(), side="right") - 1
    index = jnp.maximum(index, 0)  # rounding may leave an entropy below 0

    def total(values: Array) -> Array:
        return jnp.zeros(len(EDGES)).at[index].add(values.ravel())

    count = total(weights)
    return {
        "by_entropy_entropy": Mean(total(entropy * weights), count),
        "by_entropy_kl": Mean(total(kl * weights), count),
        "by_entropy_agreement": Mean(total(agreement * weights), count),
    }


def buckets(host: dict[str, Mean]) -> dict[str, tuple[EntropyBucket, ...]]:
    """Takes the sums of `by_entropy` out of the metrics, and returns the buckets.

    Args:
        host: All metrics, on the host; without a teacher they have no such sums.
    """
    if "by_entropy_kl" not in host:
        return {}
    found = [host.pop(f"by_entropy_{name}") for name in ("entropy", "kl", "agreement")]
    count = np.asarray(found[0].count)
    totals = [np.asarray(mean.total) for mean in found]

    def bucket(index: int) -> EntropyBucket:
        entropy, kl, agreement = (float(t[index] / count[index]) for t in totals)
        high = (*EDGES, None)[index + 1]
        return EntropyBucket(
            EDGES[index], high, entropy, kl, agreement, int(count[index])
        )

    used = np.flatnonzero(count > 0).tolist()
    return {"by_entropy": tuple(map(bucket, used))}
