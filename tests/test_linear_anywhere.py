"""Fused and dense losses agree on shapes, masks and vocabularies that nobody chose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax import losses
from kdjax.config import MeshConfig
from kdjax.losses import DIVERGENCES, Head, LossSharding
from kdjax.parallel.sharding import make_mesh

pytestmark = pytest.mark.slow
IDS = [1, 2, 7, 16]
SHARDING = LossSharding(make_mesh(MeshConfig(2, 2, 2)))


@st.composite
def heads(draw, ids):
    """Returns what makes a head of so many real ids."""
    return {
        "size": ids + draw(st.sampled_from([0, 3])),
        "has_bias": draw(st.booleans()),
        "scale": draw(st.sampled_from([1.0, 0.5])),
        "softcap": draw(st.sampled_from([None, 4.0])),
        "valid": ids,
    }


@st.composite
def cases(draw):
    """Returns static choices, and arrays."""
    ids = draw(st.sampled_from(IDS))
    more = draw(st.sampled_from([0, 2]))
    sides = draw(heads(ids + more)), draw(heads(ids))
    shape = draw(st.sampled_from([(4, 1), (4, 3), (8, 2)]))
    mask = draw(
        st.one_of(
            st.just([False] * (shape[0] * shape[1])),
            st.lists(
                st.booleans(),
                min_size=shape[0] * shape[1],
                max_size=shape[0] * shape[1],
            ),
        )
    )
    scale = draw(st.sampled_from([0.1, 1.0, 10.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays = []
    for side, width in zip(sides, (4, 8), strict=True):
        arrays.append(jnp.float32(scale * rng.normal(size=(*shape, width))))
        arrays.append(jnp.float32(rng.normal(size=(width, side["size"]))))
        arrays.append(jnp.float32(rng.normal(size=side["size"])))
    arrays.append(jnp.asarray(rng.integers(0, ids, shape)))
    arrays.append(jnp.float32(rng.random(shape) * np.reshape(mask, shape)))
    options = {
        "kind": draw(st.sampled_from(list(DIVERGENCES))),
        "alpha": draw(st.sampled_from([0.0, 0.4, 1.0])),
        "temperature": draw(st.sampled_from([0.5, 1.0, 4.0])),
    }
    chunk = draw(st.sampled_from([None, 1, 5]))
    spread = draw(st.sampled_from([None, SHARDING]))
    static = tuple(tuple(sorted(s.items())) for s in (*sides, options))
    return static, chunk, spread, arrays


def head_of(side, kernel, bias):
    side = dict(side)
    side.pop("size")
    return Head(kernel, bias if side.pop("has_bias") else None, **side)


def both(static, chunk, spread, arrays):
    """Returns loss and gradients, fused and through whole logits."""
    student_side, teacher_side, options = static
    options = dict(options)
    alpha, temperature = options["alpha"], options["temperature"]
    hidden, kernel, bias, teacher_hidden, *teacher, labels, weights = arrays
    teacher_head = head_of(teacher_side, *teacher)
    real = min(dict(side)["valid"] for side in (student_side, teacher_side))

    def fused(hidden, kernel, bias):
        return losses.linear_distillation(
            hidden,
            head_of(student_side, kernel, bias),
            teacher_hidden,
            teacher_head,
            labels,
            weights,
            **options,
            chunk_size=chunk,
            sharding=spread,
        )[0]

    def dense(hidden, kernel, bias):
        logits = losses.apply_head(head_of(student_side, kernel, bias), hidden)
        taught = losses.apply_head(teacher_head, teacher_hidden)
        compared = logits[..., :real], taught[..., :real]
        hard = losses.hard_loss(logits, labels)
        soft = losses.divergence(
            *compared, kind=options["kind"], temperature=temperature, labels=labels
        )
        return (weights * (alpha * temperature**2 * soft + (1 - alpha) * hard)).sum()

    # Not compiled as a whole: what is dense only needs operations compiled before.
    student = hidden, kernel, bias
    found = jax.jit(jax.value_and_grad(fused, argnums=(0, 1, 2)))(*student)
    return found, jax.value_and_grad(dense, argnums=(0, 1, 2))(*student)


@settings(max_examples=600, deadline=None)
@given(cases())
def test_fused_is_dense_whatever_the_shapes_masks_and_vocabularies(case):
    *static, arrays = case
    (value, gradients), (wanted, exact) = jax.device_get(both(*static, arrays))
    tolerance = 1e-5 * max(1.0, abs(wanted))
    np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=tolerance)
    leaves = (jax.tree.leaves(x) for x in (gradients, exact))
    for found, expected in zip(*leaves, strict=True):
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * largest + 1e-6)
    if not arrays[-1].any():
        assert value == 0.0
        assert not any(x.any() for x in jax.tree.leaves(gradients))
