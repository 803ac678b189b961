"""The per-token metrics of an evaluation, without gradients."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax.losses.divergences import compare
from kdjax.losses.head import mask
from kdjax.losses.passes import each_token
from kdjax.losses.plan import LossSharding, prepare
from kdjax.losses.targets import Targets
from kdjax.losses.vocabulary import Distribution, Vocabulary

_TEACHER = "teacher"


@runtime_checkable
class TokenMetric(Protocol):
    """A further metric, such as one of the user's own."""

    def __call__(
        self,
        q: Distribution,
        labels: Int[Array, "N"],
        over: Vocabulary,
    ) -> Float[Array, "N"]:
        """Returns one value per token.

        Args:
            q: The model's distribution, with `probs` and `logs` [N, V].
            labels: The true ids.
            over: Reduces over the ids, which may be sharded.
        """


def token_metrics(
    model: Targets,
    labels: Int[Array, "*batch"],
    targets: Targets | None = None,
    *,
    chunk_size: int | None = None,
    sharding: LossSharding | None = None,
    further: Mapping[str, TokenMetric] | None = None,
) -> dict[str, Float[Array, "*batch"]]:
    """Returns metrics of every token, without holding [tokens, vocabulary].

    They are "cross_entropy" with the labels, "confidence" (the largest probability) and
    "correct" (whether it is the label's). With targets also "forward_kl", "reverse_kl",
    "agreement" on the most likely id, "acceptance", the acceptance rate of speculative
    decoding, sum_v min(p_v, q_v) (Leviathan et al. 2023, arXiv:2211.17192), and
    "teacher_entropy", -sum_v p_v log p_v.

    Args:
        model: The model to evaluate: a student, a teacher or an ensemble.
        labels: The true ids.
        targets: What it is compared with.
        chunk_size: As for `fused_loss`.
        sharding: As for `fused_loss`.
        further: More metrics by name.

    Raises:
        ValueError: Widths differ, or vocabularies differ by more than padding.
    """
    others = {} if targets is None else {_TEACHER: targets}
    common = min(each.real for each in (model, *others.values()))

    def metrics(
        logits: Array,
        taught: Mapping[str, Array],
        labels: Array,
        scalars: Any,
        over: Vocabulary,
    ) -> dict[str, Array]:
        q = over.softmax(logits)
        is_correct = over.argmax(logits) == labels
        values = {
            "cross_entropy": over.cross_entropy(q, labels),
            "confidence": over.max(q.probs),
            "correct": is_correct.astype(jnp.float32),
        }
        for name, metric in (further or {}).items():
            values[name] = metric(q, labels, over).astype(jnp.float32)
        if not taught:
            return values
        logits = mask(logits, common, over)
        p, q = over.softmax(taught[_TEACHER]), over.softmax(logits)
        agree = over.argmax(logits) == over.argmax(taught[_TEACHER])
        return values | {
            "forward_kl": compare(p, q, over, labels, kind="forward_kl"),
            "reverse_kl": compare(p, q, over, labels, kind="reverse_kl"),
            "agreement": agree.astype(jnp.float32),
            "acceptance": over.sum(jnp.minimum(p.probs, q.probs)),
            # An id of probability 0 has the logarithm -inf.
            "teacher_entropy": -over.sum(
                jnp.where(p.probs > 0.0, p.probs * p.logs, 0.0)
            ),
        }

    plan, inputs = prepare(
        metrics, model, others, labels, None, {}, chunk_size, sharding
    )
    return each_token(plan, inputs._replace(model=model.fitted(plan.size)))
