"""The losses from hidden states and heads, without [tokens, vocabulary] in memory.

A chunk's gradient is computed while its logits are in memory (as in Liger Kernel, Hsu
et al. 2024, arXiv:2410.10989): three matrix products with the student's head and one
with each teacher's, none of them computed twice.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from kdjax.losses.divergences import (
    as_float,
    as_floats,
    check_parameters,
    check_temperature,
    compare,
    tempered,
)
from kdjax.losses.formulas import Number, ScalarLike
from kdjax.losses.head import Head, check_width, fit, mask, narrow
from kdjax.losses.passes import each_gradient, each_token, model_like
from kdjax.losses.plan import Inputs, LossSharding, Plan, prepare
from kdjax.losses.reference import Parts
from kdjax.losses.targets import FromHidden, Targets
from kdjax.losses.vocabulary import Vocabulary


class SoftValues(NamedTuple):
    """How one target is compared with the student, and the weight of that term.

    Attributes:
        kind: A name in `DIVERGENCES`.
        weight: Weight of `temperature**2 * divergence` in the loss, at least 0.
        temperature: Softens both distributions, > 0.
        parameters: The divergence's parameters; those omitted take their defaults.
    """

    kind: str = "forward_kl"
    weight: Number = 1.0
    temperature: Number = 1.0
    parameters: Mapping[str, Number] = {}


def fused_loss(
    hidden: Float[Array, "*batch D"],
    head: Head,
    labels: Int[Array, "*batch"],
    weights: Float[Array, "*batch"],
    targets: Mapping[str, Targets],
    *,
    hard: Number,
    soft: Mapping[str, SoftValues],
    chunk_size: int | None = None,
    sharding: LossSharding | None = None,
) -> tuple[Float[Array, ""], Parts]:
    r"""Returns the weighted SUM over the tokens of hard and soft losses.

    Computes :math:`h\,\mathrm{CE} + \sum_i w_i \tau_i^2 D_i(p_i, q)` per token, with
    the target :math:`p_i` and the student :math:`q` softened by :math:`\tau_i`. The
    caller divides by the weight of the global batch. Only the student's hidden states
    and head get a gradient, the head only where it is differentiated. Supports
    reverse-mode differentiation only, and only once; under `jax.checkpoint` all of it
    would be computed twice.

    Args:
        hidden: The student's last hidden states.
        head: The student's head.
        labels: The true ids; where the weight is not 0, real ids of the student.
        weights: The weight of each token; 0 excludes it, even if it holds NaN.
        targets: What the student is compared with, by name; if empty, the loss is plain
            cross-entropy. Where a target and the student disagree on how many ids are
            real, ids beyond the smaller vocabulary count on neither side.
        hard: Weight of the cross-entropy, at least 0. A Python 0 omits it from the
            gradient altogether, as it does for a soft loss.
        soft: How each target is compared, under the same names.
        chunk_size: How many tokens' logits a device holds at a time; None chooses by
            their memory and, on accelerators, by speed.
        sharding: How to shard the work over a mesh: tokens over the batch's axes, ids
            over another. None leaves it to the compiler, right for one device.

    Returns:
        The weighted sum, and the per-token parts, 0 where the weight is 0.

    Raises:
        ValueError: A divergence or a parameter is unknown or out of range, hidden
            states and head differ in width, arrays differ in their tokens, or
            vocabularies differ by more than padding.
    """
    if targets.keys() != soft.keys():
        raise ValueError(
            f"soft values {sorted(soft)} must be for the targets {sorted(targets)}"
        )
    values = {name: _checked(each) for name, each in soft.items()}
    values[""] = {"hard": _checked_weight(hard, "hard")}
    common = {name: min(each.real, head.real) for name, each in targets.items()}
    kinds = {name: each.kind for name, each in soft.items()}
    function, traced = _mixture(kinds, values, head.real, common)
    student = FromHidden(hidden, head)
    arguments = labels, weights, traced, chunk_size, sharding
    check_width(head, hidden)
    plan, inputs = prepare(function, student, targets, *arguments)
    student = dataclasses.replace(student, head=fit(head, plan.size))
    return _differentiable(plan, inputs._replace(model=student))


def _checked(soft: SoftValues) -> dict[str, ScalarLike]:
    """Returns a target's scalars, as floats where they are not traced."""
    parameters = as_floats(soft.parameters)
    check_parameters(soft.kind, parameters)
    temperature = as_float(soft.temperature)
    check_temperature(temperature)
    weight = _checked_weight(soft.weight, "soft")
    return {"weight": weight, "temperature": temperature, **parameters}


def _checked_weight(weight: Number, name: str) -> ScalarLike:
    """Returns a weight, which must not be negative; a traced one cannot be checked."""
    value = as_float(weight)
    if isinstance(value, float) and not 0.0 <= value < float("inf"):
        raise ValueError(f"the weight of the {name} loss must be >= 0; it is {value:g}")
    return value


def _mixture(
    kinds: Mapping[str, str],
    values: Mapping[str, Mapping[str, ScalarLike]],
    student_real: int,
    common: Mapping[str, int],
) -> tuple[Callable[..., tuple[Array, Parts]], dict[str, dict[str, Array]]]:
    """Returns the function of logits that gives loss and parts, and its scalars.

    Python numbers stay constants, so that the compiler can fold them; traced values are
    passed as arguments.

    Args:
        kinds: Each target's divergence.
        values: Each target's scalars, and under the empty name those of the hard loss.
        student_real: How many ids the student knows.
        common: How many of them each target knows.
    """
    fixed: dict[str, dict[str, float]] = {}
    traced: dict[str, dict[str, Array]] = {}
    for name, each in values.items():
        fixed[name] = {k: v for k, v in each.items() if isinstance(v, float)}
        others = each.keys() - fixed[name].keys()
        traced[name] = {k: jnp.asarray(each[k]) for k in others}

    def mixture(
        student: Array,
        targets: Mapping[str, Array],
        labels: Array,
        scalars: Mapping[str, Mapping[str, Array]],
        over: Vocabulary,
    ) -> tuple[Array, Parts]:
        hard_q = over.softmax(student)
        hard = over.cross_entropy(hard_q, labels)
        weight: Any
        terms, soft = [], {}
        for name, logits in targets.items():
            numbers: dict[str, Any] = {**scalars[name], **fixed[name]}
            weight, temperature = numbers.pop("weight"), numbers.pop("temperature")
            q = hard_q
            if common[name] != student_real or not _is(temperature, 1.0):
                known = mask(student, common[name], over)
                q = over.softmax(tempered(known, temperature))
            p = over.softmax(tempered(logits, temperature))
            soft[name] = compare(p, q, over, labels, kind=kinds[name], **numbers)
            # A term whose weight is 0 must not cost a gradient: XLA may not drop a
            # product with zero, which could be NaN.
            if not _is(weight, 0.0):
                terms.append(weight * temperature**2 * soft[name])
        weight = {**scalars[""], **fixed[""]}["hard"]
        if not _is(weight, 0.0):
            terms.append(hard if _is(weight, 1.0) else weight * hard)
        loss = functools.reduce(operator.add, terms or [jnp.zeros_like(hard)])
        return loss, Parts(hard, soft)

    return mixture, traced


def _is(value: ScalarLike, number: float) -> bool:
    """Returns whether a value is known to be this number."""
    return isinstance(value, float) and value == number


def _reduced(values: tuple[Array, Any], weights: Array) -> tuple[Array, Any]:
    """Returns the weighted sum of the loss, and the parts; 0 where the weight is 0."""

    def kept(x: Array) -> Array:
        return jnp.where(weights == 0.0, 0.0, x)

    loss, parts = jax.tree.map(kept, values)
    return jnp.sum(weights * loss), parts


def _narrow(inputs: Inputs) -> Inputs:
    """Returns the inputs with the head's matrix in the hidden states' precision."""
    model = inputs.model
    head = narrow(model.head, model.hidden.dtype)
    return inputs._replace(model=dataclasses.replace(model, head=head))


# Outside the `shard_map` and the scan, which are then never differentiated.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable(plan: Plan, inputs: Inputs) -> tuple[Array, Any]:
    return _reduced(each_token(plan, _narrow(inputs)), inputs.weights)


def _forward(plan: Plan, inputs: Any) -> tuple[Any, Any]:
    is_asked = jax.tree.map(lambda x: x.perturbed, inputs.model)
    inputs = jax.tree.map(lambda x: x.value, inputs)
    values, gradients = each_gradient(
        plan,
        _narrow(inputs),
        kernel=is_asked.head.kernel,
        bias=bool(is_asked.head.bias),
    )
    # Empty arrays carry the dtypes that the gradients must have in the end.
    dtypes = jax.tree.map(lambda x: jnp.zeros((0,), x.dtype), inputs.model)
    return _reduced(values, inputs.weights), (gradients, dtypes)


def _backward(plan: Plan, residuals: Any, cotangents: Any) -> tuple[Inputs]:
    gradients, dtypes = residuals
    scale, _ = cotangents  # no gradient flows through the parts

    def scaled(x: Array | None, like: Array | None) -> Array | None:
        if x is None or like is None or isinstance(scale, SymbolicZero):
            return None
        return (scale * x.astype(jnp.float32)).astype(like.dtype)

    head = gradients.head
    model = model_like(
        gradients,
        scaled(gradients.hidden, dtypes.hidden),
        scaled(head.kernel, dtypes.head.kernel),
        scaled(head.bias, dtypes.head.bias),
    )
    return (Inputs(model, None, None, None, None),)


_differentiable.defvjp(_forward, _backward, symbolic_zeros=True)
