"""The distillation loss weighs its parts as it says; labels stay within documents."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import cross_entropy, oracle

from kdjax import losses

INF = np.inf
distillation_loss = jax.jit(
    losses.distillation_loss, static_argnames=("kind", "alpha", "temperature")
)


def random_logits(*shape, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.float32(scale * rng.normal(size=(2, *shape))))


def random_labels(shape, vocab_size=11):
    return jnp.asarray(np.random.default_rng(1).integers(0, vocab_size, shape))


@partial(jax.jit, static_argnames="temperature")
def soft_gradient(student, teacher, temperature):
    labels = jnp.zeros(student.shape[:-1], jnp.int32)
    return jax.grad(
        lambda x: distillation_loss(
            x, teacher, labels, alpha=1.0, temperature=temperature
        ).sum()
    )(student)


def test_soft_gradient_at_high_temperature_matches_logits():
    # Hinton et al. 2015, section 2.1; above T = 100 float32 cancels too much to see it.
    student, teacher = random_logits(5, 11, scale=1.0)
    difference = np.asarray(student - teacher)
    limit = (difference - difference.mean(-1, keepdims=True)) / 11
    gradient = soft_gradient(student, teacher, temperature=30.0)
    np.testing.assert_allclose(gradient, limit, atol=0.03 * np.abs(limit).max())


def test_temperature_squared_keeps_the_gradient_s_scale():
    student, teacher = random_logits(64, 11, scale=1.0)
    norms = [np.linalg.norm(soft_gradient(student, teacher, t)) for t in (1.0, 30.0)]
    assert 0.5 < norms[1] / norms[0] < 2.0


@pytest.mark.parametrize("kind", ["forward_kl", "total_variation"])
def test_the_mixture_weighs_soft_by_alpha_and_hard_by_the_rest(kind):
    student, teacher = random_logits(3, 4, 11)
    labels = random_labels((3, 4))
    value = distillation_loss(
        student, teacher, labels, alpha=0.3, temperature=2.0, kind=kind
    )
    soft = oracle(student, teacher, kind, temperature=2.0)
    expected = 0.3 * 4.0 * soft + 0.7 * cross_entropy(student, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_alpha_0_is_cross_entropy_and_alpha_1_ignores_the_labels():
    student, teacher = random_logits(3, 4, 11)
    labels = random_labels((3, 4))

    @jax.jit
    def gradient(alpha, labels, teacher=teacher):
        return jax.grad(
            lambda x: losses.distillation_loss(
                x, teacher, labels, alpha=alpha, temperature=2.0
            ).sum()
        )(student)

    hard = jax.grad(lambda x: losses.hard_loss(x, labels).sum())(student)
    np.testing.assert_allclose(gradient(0.0, labels, -teacher), hard, atol=1e-7)
    np.testing.assert_array_equal(gradient(1.0, labels), gradient(1.0, 0 * labels))


@pytest.mark.parametrize(("alpha", "kind"), [(0.0, "reverse_kl"), (1.0, "forward_kl")])
def test_an_infinite_loss_of_weight_0_is_not_a_nan(alpha, kind):
    student, teacher = random_logits(3, 11)
    teacher = teacher.at[:, 4].set(-INF)  # the reverse divergence is infinite
    if alpha:  # and here the cross-entropy is
        student = student.at[:, 4].set(-INF)
    loss = partial(distillation_loss, alpha=alpha, temperature=2.0, kind=kind)
    labels = jnp.full((3,), 4)
    value, gradient = jax.value_and_grad(lambda x: loss(x, teacher, labels).sum())(
        student
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_values_are_float32_for_bfloat16_logits():
    student, teacher = (jnp.bfloat16(x) for x in random_logits(3, 11))
    labels = random_labels((3,))
    value = distillation_loss(student, teacher, labels, alpha=0.5, temperature=2.0)
    exact = distillation_loss(
        student.astype(jnp.float32),
        teacher.astype(jnp.float32),
        labels,
        alpha=0.5,
        temperature=2.0,
    )
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, exact)


def test_next_token_stays_within_a_document():
    tokens = jnp.array([[5, 6, 7, 8, 9, 3, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8], [0] * 8])
    segments = jnp.array([[1, 1, 2, 3, 3, 3, 0, 0], [1] * 8, [0] * 8])
    labels, weights = losses.next_token(tokens, segments)
    assert weights.tolist() == [[1, 0, 0, 1, 1, 0, 0, 0], [1] * 7 + [0], [0] * 8]
    counted = weights > 0
    following = jnp.roll(tokens, -1, axis=1)
    np.testing.assert_array_equal(labels[counted], following[counted])
    assert (labels >= 0).all()


def test_a_prompt_is_read_but_not_learnt():
    tokens = jnp.array([[5, 6, 7, 8, 9, 3, 4]])
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 2]])
    completion = jnp.array([[0, 0, 1, 1, 0, 0, 1]], bool)
    labels, weights = losses.next_token(tokens, segments, completion)
    assert weights.tolist() == [[0, 1, 1, 0, 0, 1, 0]]
    np.testing.assert_array_equal(labels[weights > 0], tokens[completion])
