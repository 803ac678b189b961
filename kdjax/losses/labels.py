"""Which token each position must predict, and the weight of that prediction."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def next_token(
    tokens: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    completion: Bool[Array, "B T"] | None = None,
) -> tuple[Int[Array, "B T"], Float[Array, "B T"]]:
    """Returns next-token labels and their weights.

    The weight is 1 where the next token belongs to the same document, else 0: at the
    end of a segment, at the end of the row, and on padding (segment 0). With
    `completion`, the next token must also be part of one: the prompt is only context,
    and its last position predicts the completion's first token.

    Args:
        tokens: Token ids.
        segments: Document numbers within the row, from 1; 0 is padding.
        completion: Which tokens are trained on; None: all of them.

    Returns:
        Labels (any id where the weight is 0) and float32 weights.

    Example:
        >>> tokens, segments = jnp.array([[5, 6, 7, 8]]), jnp.array([[1, 1, 2, 0]])
        >>> labels, weights = next_token(tokens, segments)
        >>> labels.tolist(), weights.tolist()
        ([[6, 7, 8, 0]], [[1.0, 0.0, 0.0, 0.0]])
    """

    def following(x: Array) -> Array:
        return jnp.pad(x[:, 1:], ((0, 0), (0, 1)))

    counts = (segments == following(segments)) & (segments > 0)
    if completion is not None:
        counts &= following(completion)
    return following(tokens), counts.astype(jnp.float32)
