"""Which token each position must predict, and what that prediction weighs."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def next_token(
    tokens: Int[Array, "B T"], segments: Int[Array, "B T"]
) -> tuple[Int[Array, "B T"], Float[Array, "B T"]]:
    """Returns next-token labels and their weights.

    A position weighs 1 where the next token belongs to the same document, else 0: at
    the end of a segment, at the end of the row, and on padding (segment 0).

    Args:
        tokens: Token ids.
        segments: Document numbers within the row, from 1; 0 is padding.

    Returns:
        Labels (any id where the weight is 0) and float32 weights.

    Example:
        >>> tokens, segments = jnp.array([[5, 6, 7, 8]]), jnp.array([[1, 1, 2, 0]])
        >>> labels, weights = next_token(tokens, segments)
        >>> labels.tolist(), weights.tolist()
        ([[6, 7, 8, 0]], [[1.0, 0.0, 0.0, 0.0]])
    """
    labels = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)))
    following = jnp.pad(segments[:, 1:], ((0, 0), (0, 1)))
    weights = (segments == following) & (segments > 0)
    return labels, weights.astype(jnp.float32)
