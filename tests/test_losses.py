"""The losses say what their formulas say, on the inputs where they could fail to."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdjax import losses

KINDS = list(losses.DIVERGENCES)
INF = np.inf
STATIC = ("kind", "alpha", "temperature")
divergence = jax.jit(losses.divergence, static_argnames=STATIC[::2])
distillation_loss = jax.jit(losses.distillation_loss, static_argnames=STATIC)
linear_distillation = jax.jit(losses.linear_distillation, static_argnames=STATIC)


def softmax(logits):
    logits = np.float64(logits)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def kl(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0).sum(-1)


ORACLES = {
    "forward_kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "total_variation": lambda p, q: np.abs(p - q).sum(-1) / 2,
}


def oracle(student, teacher, kind, temperature=1.0):
    p, q = (softmax(np.float64(x) / temperature) for x in (teacher, student))
    return ORACLES[kind](p, q)


def cross_entropy(logits, labels):
    chosen = np.take_along_axis(softmax(logits), np.asarray(labels)[..., None], -1)
    return -np.log(chosen[..., 0])


def random_logits(*shape, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.float32(scale * rng.normal(size=(2, *shape))))


def random_labels(shape, vocab_size=11):
    return jnp.asarray(np.random.default_rng(1).integers(0, vocab_size, shape))


def test_every_divergence_has_an_oracle_here():
    assert set(ORACLES) == set(KINDS)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
@pytest.mark.parametrize("kind", KINDS)
def test_divergence_is_its_formula_in_float64(kind, temperature):
    student, teacher = random_logits(3, 4, 11)
    value = divergence(student, teacher, kind=kind, temperature=temperature)
    expected = oracle(student, teacher, kind, temperature)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_of_huge_logits_neither_overflows_nor_loses_its_mean(kind):
    student, teacher = random_logits(5, 11)
    student, teacher = student + 1e3, 30 * teacher - 1e3
    value = divergence(student, teacher, kind=kind)
    np.testing.assert_allclose(value, oracle(student, teacher, kind), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_is_zero_at_equality_and_nowhere_negative(kind):
    student, _ = random_logits(64, 101)
    nudged = student + 1e-3 * random_logits(64, 101, seed=1)[0]
    same = divergence(student, student + 7.0, kind=kind)
    np.testing.assert_allclose(same, 0.0, atol=1e-6)
    assert divergence(student, nudged, kind=kind).min() > -1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_gradient_is_that_of_its_value(kind):
    student, teacher = random_logits(2, 7, scale=1.0)

    def value(x):
        return divergence(jnp.asarray(x), teacher, kind=kind, temperature=2.0)

    check_grads(value, (student,), order=1, modes=["rev"], atol=1e-3, rtol=1e-3)


@partial(jax.jit, static_argnames="kind")
def value_and_gradient(student, teacher, kind):
    return jax.value_and_grad(lambda x: divergence(x, teacher, kind=kind).sum())(
        student
    )


# An id missing on both sides is vocabulary padding. Where only one side misses it, a
# divergence whose formula is finite must be so, and its gradient too.
@pytest.mark.parametrize(
    ("student_misses", "teacher_misses", "finite"),
    [
        ([4, 5], [4, 5], KINDS),
        ([], [4, 5], ["forward_kl", "total_variation"]),
        ([4, 5], [], ["reverse_kl", "total_variation"]),
        ([5], [4, 5], ["forward_kl", "total_variation"]),
    ],
)
def test_minus_infinity_counts_nothing(student_misses, teacher_misses, finite):
    student, teacher = random_logits(3, 6)
    student = student.at[:, np.array(student_misses, int)].set(-INF)
    teacher = teacher.at[:, np.array(teacher_misses, int)].set(-INF)
    for kind in KINDS:
        value, gradient = value_and_gradient(student, teacher, kind)
        np.testing.assert_allclose(
            value, oracle(student, teacher, kind).sum(), rtol=1e-5
        )
        assert np.isfinite(value) == (kind in finite), kind
        if kind in finite:
            assert np.isfinite(gradient).all(), kind
            assert not gradient[student == -INF].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [0, 1], ids=["student", "teacher"])
def test_a_nan_is_not_mistaken_for_an_id_that_counts_nothing(side, kind):
    logits = list(random_logits(2, 6))
    logits[side] = logits[side].at[0].set(jnp.nan)
    value = divergence(*logits, kind=kind)
    assert np.isnan(value).tolist() == [True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_shared_padding_is_the_same_as_slicing_it_off(kind):
    student, teacher = random_logits(3, 6)
    padded = (x.at[:, 4:].set(-INF) for x in (student, teacher))
    padded = divergence(*padded, kind=kind)
    sliced = divergence(student[:, :4], teacher[:, :4], kind=kind)
    np.testing.assert_allclose(padded, sliced, rtol=1e-6)


def test_forward_kl_gradient_is_the_difference_of_probabilities():
    student, teacher = random_logits(5, 11)
    _, gradient = value_and_gradient(student, teacher, "forward_kl")
    np.testing.assert_allclose(gradient, softmax(student) - softmax(teacher), atol=1e-6)


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


@pytest.mark.parametrize("kind", KINDS)
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


def test_an_unknown_kind_is_answered_with_the_names():
    student, teacher = random_logits(2, 5)
    with pytest.raises(ValueError, match="forward_kll") as error:
        losses.divergence(student, teacher, kind="forward_kll")
    assert all(kind in str(error.value) for kind in KINDS)


def make_case(shape=(3, 4), *, student_head=None, teacher_head=None, size=11):
    """Returns the arguments of `linear_distillation`; the widths differ."""
    rng = np.random.default_rng(0)
    arguments = []
    for width, options in ((5, student_head or {}), (8, teacher_head or {})):
        options = {"size": size, **options}
        kernel = rng.normal(size=(width, options.pop("size")))
        if options.pop("has_bias", False):
            options["bias"] = jnp.float32(rng.normal(size=kernel.shape[1]))
        hidden = jnp.float32(rng.normal(size=(*shape, width)))
        arguments += [hidden, losses.Head(jnp.float32(kernel), **options)]
    labels = random_labels(shape, size)
    return *arguments, labels, jnp.float32(rng.random(shape))


def logits_of(hidden, head):
    """Returns the head's logits over its real ids, in float64."""
    bias = 0.0 if head.bias is None else np.float64(head.bias)
    logits = head.scale * (np.float64(hidden) @ np.float64(head.kernel) + bias)
    if head.softcap is not None:
        logits = head.softcap * np.tanh(logits / head.softcap)
    return logits[..., : head.valid]


HEADS = {
    "plain": {},
    "bias": {"has_bias": True},
    "scale": {"has_bias": True, "scale": 0.5},
    "softcap": {"has_bias": True, "scale": 2.0, "softcap": 3.0},
}


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS.keys())
def test_linear_distillation_is_the_distillation_loss_on_logits(options):
    case = make_case(student_head=options, teacher_head=options)
    student_hidden, student_head, teacher_hidden, teacher_head, labels, weights = case
    loss, parts = linear_distillation(*case, alpha=0.3, temperature=2.0)
    student = logits_of(student_hidden, student_head)
    teacher = logits_of(teacher_hidden, teacher_head)
    hard = cross_entropy(student, labels)
    soft = oracle(student, teacher, "forward_kl", 2.0)
    np.testing.assert_allclose(parts.hard, hard, rtol=1e-5)
    np.testing.assert_allclose(parts.soft, soft, rtol=1e-5)
    expected = (weights * (0.3 * 4 * soft + 0.7 * hard)).sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("student_head", "teacher_head"),
    [
        ({"size": 16, "valid": 11}, {"size": 32, "valid": 11}),  # padded differently
        ({"size": 16, "valid": 13}, {"size": 32, "valid": 11}),  # teacher has fewer
        ({"size": 16, "valid": 11}, {"size": 16}),  # teacher has more
    ],
)
def test_ids_beyond_the_smaller_vocabulary_count_on_neither_side(
    student_head, teacher_head, kind
):
    case = make_case(student_head=student_head, teacher_head=teacher_head)
    student_hidden, student_head, teacher_hidden, teacher_head, labels, _ = case
    student = logits_of(student_hidden, student_head)
    teacher = logits_of(teacher_hidden, teacher_head)
    loss = partial(losses.linear_distillation, alpha=0.5, temperature=2.0, kind=kind)
    gradient, parts = jax.jit(jax.grad(loss, has_aux=True))(*case)
    np.testing.assert_allclose(
        parts.soft, oracle(student[..., :11], teacher[..., :11], kind, 2.0), rtol=1e-5
    )
    # The labels are the student's business: all of its own ids compete.
    np.testing.assert_allclose(parts.hard, cross_entropy(student, labels), rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_a_token_of_weight_0_is_left_out_of_loss_and_gradient():
    *case, weights = make_case(shape=(12,))
    kept = jnp.array([0, 3, 4, 9])
    weights = jnp.zeros(12).at[kept].set(weights[kept])

    @jax.jit
    @jax.value_and_grad
    def value(hidden, index):
        taken = [x if isinstance(x, losses.Head) else x[index] for x in case[1:]]
        options = {"alpha": 0.5, "temperature": 2.0}
        return linear_distillation(hidden[index], *taken, weights[index], **options)[0]

    masked = value(case[0], jnp.arange(12))
    sliced = value(case[0], kept)
    np.testing.assert_allclose(masked[0], sliced[0], rtol=1e-6)
    np.testing.assert_allclose(masked[1], sliced[1], atol=1e-6)


def test_gradients_reach_the_student_alone():
    case = make_case(student_head={"has_bias": True}, teacher_head={"has_bias": True})

    def value(models):
        return linear_distillation(*models, *case[4:], alpha=0.5, temperature=2.0)[0]

    gradients = jax.grad(value)(case[:4])
    assert all(x.any() for x in jax.tree.leaves(gradients[:2]))
    assert not any(x.any() for x in jax.tree.leaves(gradients[2:]))


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_reaches_the_teacher_s_logits(kind):
    student, teacher = random_logits(3, 11)
    gradient = jax.grad(
        lambda x: distillation_loss(
            student, x, random_labels((3,)), alpha=0.5, temperature=2.0, kind=kind
        ).sum()
    )(teacher)
    assert not gradient.any()


def test_the_parts_carry_no_gradient():
    case = make_case()

    def value(hidden, head):
        rest = case[2:]
        _, parts = linear_distillation(hidden, head, *rest, alpha=0.5, temperature=2.0)
        _, hard = losses.linear_cross_entropy(hidden, head, *case[4:])
        return parts.hard.sum() + parts.soft.sum() + hard.sum()

    gradients = jax.grad(value, argnums=(0, 1))(*case[:2])
    assert not any(x.any() for x in jax.tree.leaves(gradients))


def test_linear_cross_entropy_is_linear_distillation_with_alpha_0():
    case = make_case(student_head={"size": 16, "valid": 11})
    expected, parts = linear_distillation(*case, alpha=0.0, temperature=2.0)
    total, hard = losses.linear_cross_entropy(*case[:2], *case[4:])
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    np.testing.assert_array_equal(hard, parts.hard)


def test_bfloat16_hidden_states_are_accumulated_in_float32():
    student, student_head, teacher, teacher_head, *rest = make_case()
    narrow = [x.astype(jnp.bfloat16) for x in (student, teacher)]
    loss, parts = linear_distillation(
        narrow[0],
        student_head,
        narrow[1],
        teacher_head,
        *rest,
        alpha=0.5,
        temperature=2.0,
    )
    rounded = [
        losses.Head(head.kernel.astype(jnp.bfloat16).astype(jnp.float32))
        for head in (student_head, teacher_head)
    ]
    wide = [x.astype(jnp.float32) for x in narrow]
    exact = linear_distillation(
        wide[0], rounded[0], wide[1], rounded[1], *rest, alpha=0.5, temperature=2.0
    )
    assert {x.dtype for x in (loss, *parts)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(loss, exact[0], rtol=1e-5)
    np.testing.assert_allclose(parts.soft, exact[1].soft, rtol=1e-4)


def test_next_token_stays_within_a_document():
    tokens = jnp.array([[5, 6, 7, 8, 9, 3, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8], [0] * 8])
    segments = jnp.array([[1, 1, 2, 3, 3, 3, 0, 0], [1] * 8, [0] * 8])
    labels, weights = losses.next_token(tokens, segments)
    assert weights.tolist() == [[1, 0, 0, 1, 1, 0, 0, 0], [1] * 7 + [0], [0] * 8]
    counted = weights > 0
    following = jnp.roll(tokens, -1, axis=1)
    np.testing.assert_array_equal(labels[counted], following[counted])
    assert (labels >= 0).all()
