"""The functions to measure: the loss with its gradients, naive and fused."""

from typing import Any

import jax
from jaxtyping import Array, Float, Int

from kdjax import losses

ALPHA, TEMPERATURE = 0.5, 2.0


def loss_with_gradients(
    implementation: str, kind: str, chunk_size: int | None = None, sharding: Any = None
) -> Any:
    """Returns f(hs, Ws, ht, Wt, labels, weights) -> mean loss and its gradients.

    The gradients are those of the student's hidden states and head.

    Args:
        implementation: "naive" materialises the logits of all tokens, "fused" is
            `linear_distillation`, and "alone" is the four unavoidable products without
            a loss.
        kind: A name in `losses.DIVERGENCES`.
        chunk_size: Tokens per chunk in `linear_distillation`; None: its own choice.
        sharding: A `losses.LossSharding`, or None on one device.
    """
    mixture: dict[str, Any] = {"alpha": ALPHA, "temperature": TEMPERATURE, "kind": kind}

    def naive(
        hs: Float[Array, "N Ds"],
        ws: Float[Array, "Ds V"],
        ht: Float[Array, "N Dt"],
        wt: Float[Array, "Dt V"],
        labels: Int[Array, "N"],
        weights: Float[Array, "N"],
    ) -> Float[Array, ""]:
        student = losses.apply_head(losses.Head(ws), hs)
        teacher = losses.apply_head(losses.Head(wt), ht)
        each = losses.distillation_loss(student, teacher, labels, **mixture)
        return (weights * each).sum() / weights.sum()

    def fused(
        hs: Float[Array, "N Ds"],
        ws: Float[Array, "Ds V"],
        ht: Float[Array, "N Dt"],
        wt: Float[Array, "Dt V"],
        labels: Int[Array, "N"],
        weights: Float[Array, "N"],
    ) -> Float[Array, ""]:
        total, _ = losses.linear_distillation(
            hs,
            losses.Head(ws),
            ht,
            losses.Head(wt),
            labels,
            weights,
            chunk_size=chunk_size,
            sharding=sharding,
            **mixture,
        )
        return total / weights.sum()

    if implementation == "alone":
        return _products
    function = {"naive": naive, "fused": fused}[implementation]
    return jax.value_and_grad(function, argnums=(0, 1))


def _products(
    hs: Float[Array, "N Ds"],
    ws: Float[Array, "Ds V"],
    ht: Float[Array, "N Dt"],
    wt: Float[Array, "Dt V"],
    *_: Array,
) -> tuple[Float[Array, ""], tuple[Array, Array]]:
    slope = hs @ ws - ht @ wt
    return slope[0, 0], (slope @ ws.T, hs.T @ slope)
