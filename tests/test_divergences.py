"""Every divergence is its paper's formula, also where float32 or a limit could fail."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from oracles import ORACLES, oracle, softmax

from kdjax import losses
from kdjax.losses import DIVERGENCES

KINDS = list(DIVERGENCES)
PARAMETER_NAMES = {name for row in DIVERGENCES.values() for name in row.parameters}
INF = np.inf
divergence = jax.jit(
    losses.divergence,
    static_argnames=("kind", "temperature", *PARAMETER_NAMES),
)
kinds = pytest.mark.parametrize("kind", KINDS)


def defaults(kind):
    return {name: p.default for name, p in DIVERGENCES[kind].parameters.items()}


def random_logits(*shape, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.float32(scale * rng.normal(size=(2, *shape))))


def labels_of(logits):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.integers(0, min(logits.shape[-1], 4), logits.shape[:-1]))


def value_of(student, teacher, kind, **options):
    labels = labels_of(student)
    return divergence(student, teacher, kind=kind, labels=labels, **options)


def expected_of(student, teacher, kind, temperature=1.0, **parameters):
    labels, parameters = labels_of(student), defaults(kind) | parameters
    return oracle(student, teacher, kind, temperature, labels, **parameters)


@partial(jax.jit, static_argnames="kind")
def value_and_gradient(student, teacher, kind):
    def total(x):
        return losses.divergence(x, teacher, kind=kind, labels=labels_of(x)).sum()

    return jax.value_and_grad(total)(student)


def test_every_divergence_has_an_oracle_here():
    assert set(ORACLES) == set(KINDS)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 8.0])
@kinds
def test_divergence_is_its_formula_in_float64(kind, temperature):
    student, teacher = random_logits(3, 4, 101)
    value = value_of(student, teacher, kind, temperature=temperature)
    expected = expected_of(student, teacher, kind, temperature)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


PARAMETERS = [
    *(("jsd", {"beta": beta}) for beta in (0.0, 0.1, 0.9, 1.0)),
    *(("skew_forward_kl", {"skew": skew}) for skew in (0.0, 0.5, 0.99)),
    *(("skew_reverse_kl", {"skew": skew}) for skew in (0.0, 0.5, 0.99)),
    *(
        ("alpha_beta", {"a": a, "b": b})
        for a, b in [(0.2, 0.7), (1.0, 0.0), (0.0, 1.0), (2.0, 0.0), (0.0, 0.5)]
    ),
    *(("adaptive_kl", {"mu": mu}) for mu in (0.1, 0.9)),
    *(("taid", {"t": t}) for t in (0.0, 0.3, 1.0)),
    ("decoupled_kd", {"a": 1.0, "b": 8.0}),
    ("decoupled_kd", {"a": 0.0, "b": 1.0}),
]


@pytest.mark.parametrize(("kind", "parameters"), PARAMETERS, ids=str)
def test_divergence_is_its_formula_for_other_parameters(kind, parameters):
    student, teacher = random_logits(5, 31)
    value = value_of(student, teacher, kind, temperature=2.0, **parameters)
    expected = expected_of(student, teacher, kind, 2.0, **parameters)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "parameters", "same_as", "factor"),
    [
        ("jsd", {"beta": 0.0}, "forward_kl", 1.0),
        ("jsd", {"beta": 1.0}, "reverse_kl", 1.0),
        ("skew_forward_kl", {"skew": 0.0}, "forward_kl", 1.0),
        ("skew_reverse_kl", {"skew": 0.0}, "reverse_kl", 1.0),
        ("alpha_beta", {"a": 1.0, "b": 0.0}, "forward_kl", 1.0),
        ("alpha_beta", {"a": 0.0, "b": 1.0}, "reverse_kl", 1.0),
        ("alpha_beta", {"a": 0.5, "b": 0.5}, "hellinger", 4.0),
        ("adaptive_kl", {"mu": 1.0}, "forward_kl", 1.0),
        ("taid", {"t": 1.0}, "forward_kl", 1.0),
    ],
)
def test_the_table_s_limits_hold(kind, parameters, same_as, factor):
    student, teacher = random_logits(5, 31)
    value = value_of(student, teacher, kind, **parameters)
    expected = factor * value_of(student, teacher, same_as)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize("skew", [0.0, 1e-6, 0.1, 0.999, 1.0])
@pytest.mark.parametrize("kind", ["skew_forward_kl", "skew_reverse_kl"])
def test_a_skewed_divergence_of_far_logits_is_its_formula(kind, skew):
    # Where log(q / p) is large, 1 + (e^x - 1) rounds to 0 and its logarithm to -inf.
    logits = jnp.array([[0.0, 0.0, -20.0], [0.0, 0.0, 0.0], [0.0, 0.0, 30.0]])
    student, teacher = logits, jnp.roll(logits, 1, axis=0)

    def total(x):
        return losses.divergence(x, teacher, kind=kind, skew=skew).sum()

    value, gradient = jax.value_and_grad(total)(student)
    expected = expected_of(student, teacher, kind, skew=skew).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)
    assert np.isfinite(gradient).all()


def test_an_end_given_by_numpy_is_an_end():
    student, teacher = random_logits(3, 11)
    value = losses.divergence(student, teacher, kind="jsd", beta=np.float32(0.0))
    np.testing.assert_array_equal(value, value_of(student, teacher, "forward_kl"))


def test_all_of_the_mass_is_the_whole_vocabulary():
    student, teacher = jnp.zeros((1, 4)), jnp.array([[20.0, 0.0, 0.0, 0.0]])
    value = value_of(student, teacher, "adaptive_kl", mu=1.0)
    np.testing.assert_allclose(value, value_of(student, teacher, "forward_kl"))


def test_others_far_below_the_label_are_still_compared():
    student, teacher = jnp.zeros((1, 3)), jnp.array([[110.0, 0.0, 5.0]])
    labels = jnp.zeros(1, jnp.int32)
    value = losses.divergence(student, teacher, kind="decoupled_kd", labels=labels)
    p, q = softmax(teacher[:, 1:]), softmax(student[:, 1:])
    expected = np.log(3.0) + (p * np.log(p / q)).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_small_beta_or_skew_is_near_its_end():
    student, teacher = random_logits(64, 31, scale=1.0)
    for kind, end in (("forward_kl", 1e-4), ("reverse_kl", 1.0 - 1e-4)):
        tilted = value_of(student, teacher, "jsd", beta=end) / 1e-4
        np.testing.assert_allclose(tilted, value_of(student, teacher, kind), rtol=5e-3)
        skewed = value_of(student, teacher, f"skew_{kind}", skew=1e-4)
        np.testing.assert_allclose(skewed, value_of(student, teacher, kind), rtol=5e-3)
    for kind in ("skew_forward_kl", "skew_reverse_kl"):
        gone = value_of(student, teacher, kind, skew=1.0)
        np.testing.assert_allclose(gone, 0.0, atol=1e-6)


def test_the_alpha_beta_divergence_tends_to_its_ends():
    student, teacher = random_logits(64, 31, scale=1.0)
    for near, end in (((1.0, 1e-3), "forward_kl"), ((1e-3, 1.0), "reverse_kl")):
        a, b = near
        value = value_of(student, teacher, "alpha_beta", a=a, b=b)
        expected = value_of(student, teacher, end)
        np.testing.assert_allclose(value, expected, rtol=1e-2)


def test_taid_at_0_is_0_and_moves_nothing():
    student, teacher = random_logits(5, 31)

    def total(x):
        return losses.divergence(x, teacher, kind="taid", t=0.0).sum()

    value, gradient = jax.value_and_grad(total)(student)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_decoupled_kd_with_the_teacher_s_own_weight_is_forward_kl():
    student, teacher = random_logits(1, 31)
    p_label = softmax(teacher)[0, int(labels_of(student)[0])]
    value = value_of(student, teacher, "decoupled_kd", a=1.0, b=float(1 - p_label))
    expected = value_of(student, teacher, "forward_kl")
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_forward_kl_at_high_temperature_is_logit_mse():
    student, teacher = random_logits(5, 31, scale=1.0)
    values = [
        value_of(student, teacher, kind, temperature=300.0)
        for kind in ("forward_kl", "logit_mse")
    ]
    np.testing.assert_allclose(*values, rtol=2e-2)


def test_total_variation_of_sure_opposites_is_1_at_low_temperature():
    student, teacher = jnp.eye(4)[:2]
    kinds = ("total_variation", "hellinger")
    values = [
        value_of(student[None], teacher[None], kind, temperature=0.01) for kind in kinds
    ]
    np.testing.assert_allclose(values, 1.0, rtol=1e-6)


@kinds
def test_divergence_of_huge_logits_neither_overflows_nor_loses_its_mean(kind):
    student, teacher = random_logits(5, 11)
    student, teacher = student + 1e3, 30 * teacher - 1e3
    value = value_of(student, teacher, kind)
    np.testing.assert_allclose(value, expected_of(student, teacher, kind), rtol=1e-4)


@kinds
def test_divergence_is_zero_at_equality_and_nowhere_negative(kind):
    student, _ = random_logits(64, 101)
    nudged = student + 1e-3 * random_logits(64, 101, seed=1)[0]
    same = value_of(student, student + 7.0, kind)
    # Of first order in what float32 lost; the others are of second order.
    rounding = 1e-6 if kind == "total_variation" else 1e-9
    np.testing.assert_allclose(same, 0.0, atol=rounding)
    assert value_of(student, nudged, kind).min() > -rounding


@kinds
def test_distributions_that_nearly_agree_are_told_apart_exactly(kind):
    # The plain sum of p log(p / q) has no digit left here.
    student, _ = random_logits(64, 101)
    nudged = student + 1e-2 * random_logits(64, 101, seed=1)[0]
    value = value_of(student, nudged, kind)
    np.testing.assert_allclose(value, expected_of(student, nudged, kind), rtol=1e-3)
    np.testing.assert_allclose(
        value.sum(), expected_of(student, nudged, kind).sum(), rtol=1e-4
    )


@kinds
def test_divergence_gradient_is_that_of_its_value(kind):
    student, teacher = random_logits(2, 7, scale=1.0)
    # Weights and targets that the gradient must pass by are held where they are.
    parameters = {"adaptive_kl": {"mu": 1.0}, "taid": {"t": 1.0}}.get(kind, {})

    def value(x):
        return losses.divergence(
            jnp.asarray(x),
            teacher,
            kind=kind,
            temperature=2.0,
            labels=labels_of(teacher),
            **parameters,
        )

    check_grads(value, (student,), order=1, modes=["rev"], atol=1e-3, rtol=1e-3)


def test_no_gradient_flows_through_adaptive_weights_nor_taid_s_target():
    student, teacher = random_logits(1, 9)
    p, q = softmax(teacher), softmax(student)
    _, gradient = value_and_gradient(student, teacher, "taid")
    between = softmax(0.5 * np.log(p) + 0.5 * np.log(q))
    np.testing.assert_allclose(gradient, q - between, atol=1e-6)
    both = [
        value_and_gradient(student, teacher, f"{k}_kl") for k in ("forward", "reverse")
    ]
    value, gradient = value_and_gradient(student, teacher, "adaptive_kl")
    (forward, forward_gradient), (reverse, reverse_gradient) = both
    share = (value - reverse) / (forward - reverse)
    expected = share * forward_gradient + (1 - share) * reverse_gradient
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_forward_kl_gradient_is_the_difference_of_probabilities():
    student, teacher = random_logits(5, 11)
    _, gradient = value_and_gradient(student, teacher, "forward_kl")
    np.testing.assert_allclose(gradient, softmax(student) - softmax(teacher), atol=1e-6)


# An id missing on both sides is vocabulary padding. Where only one side misses it, a
# divergence whose formula is finite must be so, and its gradient too.
@kinds
@pytest.mark.parametrize(
    ("student_misses", "teacher_misses"),
    [([4, 5], [4, 5]), ([], [4, 5]), ([4, 5], []), ([5], [4, 5])],
)
def test_minus_infinity_counts_nothing(student_misses, teacher_misses, kind):
    student, teacher = random_logits(3, 6)
    student = student.at[:, np.array(student_misses, int)].set(-INF)
    teacher = teacher.at[:, np.array(teacher_misses, int)].set(-INF)
    assert_is_formula(student, teacher, kind)


def assert_is_formula(student, teacher, kind):
    value, gradient = value_and_gradient(student, teacher, kind)
    expected = expected_of(student, teacher, kind).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-5)  # infinite alike
    if np.isfinite(expected):
        assert np.isfinite(gradient).all()
        assert not gradient[student == -INF].any()


@pytest.mark.parametrize(
    ("kind", "without_teacher_s", "without_student_s"),
    [
        ("forward_kl", True, False),
        ("reverse_kl", False, True),
        ("adaptive_kl", False, False),
        ("decoupled_kd", True, False),
        ("jsd", True, True),
        ("taid", True, True),
    ],
)
def test_an_id_that_one_side_misses_makes_infinite_what_the_page_says(
    kind, without_teacher_s, without_student_s
):
    whole, cut = random_logits(3, 6)
    cut = cut.at[:, 4:].set(-INF)
    assert np.isfinite(value_of(whole, cut, kind)).all() == without_teacher_s
    assert np.isfinite(value_of(cut, whole, kind)).all() == without_student_s


@kinds
def test_a_one_hot_teacher_is_compared_like_any_other(kind):
    student, _ = random_logits(3, 6)
    teacher = jnp.log(jax.nn.one_hot(labels_of(student), 6))
    assert_is_formula(student, teacher, kind)


@kinds
def test_a_vocabulary_of_one_id_leaves_nothing_to_learn(kind):
    value, gradient = value_and_gradient(*random_logits(3, 1), kind)
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_array_equal(gradient, 0.0)


@kinds
def test_a_vocabulary_of_two_ids_is_a_coin(kind):
    student, teacher = random_logits(5, 2)
    value = value_of(student, teacher, kind)
    np.testing.assert_allclose(
        value, expected_of(student, teacher, kind), rtol=1e-5, atol=1e-9
    )


@kinds
@pytest.mark.parametrize("side", [0, 1], ids=["student", "teacher"])
def test_a_nan_is_not_mistaken_for_an_id_that_counts_nothing(side, kind):
    logits = list(random_logits(2, 6))
    logits[side] = logits[side].at[0].set(jnp.nan)
    value = value_of(*logits, kind)
    assert np.isnan(value).tolist() == [True, False]


@kinds
def test_shared_padding_is_the_same_as_slicing_it_off(kind):
    student, teacher = random_logits(3, 6)
    padded = (x.at[:, 4:].set(-INF) for x in (student, teacher))
    sliced = value_of(student[:, :4], teacher[:, :4], kind)
    np.testing.assert_allclose(value_of(*padded, kind), sliced, rtol=1e-6)


@kinds
def test_no_gradient_reaches_the_teacher_s_logits(kind):
    student, teacher = random_logits(3, 11)
    gradient = jax.grad(
        lambda x: losses.divergence(
            student, x, kind=kind, temperature=2.0, labels=labels_of(student)
        ).sum()
    )(teacher)
    assert not gradient.any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "forward_kll"}, ["'forward_kll'", *KINDS]),
        ({"kind": "forward_kl", "beta": 0.5}, ["no parameter 'beta'", "none"]),
        ({"kind": "jsd", "skew": 0.5}, ["no parameter 'skew'", "takes: beta"]),
        ({"kind": "jsd", "beta": 1.5}, ["beta must be in [0, 1]", "1.5"]),
        ({"kind": "jsd", "beta": float("nan")}, ["beta must be in", "nan"]),
        ({"kind": "adaptive_kl", "mu": -0.1}, ["mu must be in [0, 1]"]),
        ({"kind": "alpha_beta", "a": 0, "b": 0}, ["a + b > 0"]),
        ({"kind": "forward_kl", "temperature": 0.0}, ["temperature must be > 0"]),
        ({"kind": "forward_kl", "temperature": -1}, ["temperature must be > 0"]),
        ({"kind": "forward_kl", "temperature": np.float32(-1)}, ["must be > 0"]),
        ({"kind": "jsd", "beta": np.float32(3.0)}, ["beta must be in [0, 1]"]),
        ({"kind": "decoupled_kd"}, ["decoupled_kd needs labels"]),
    ],
)
def test_a_mistake_is_answered_with_what_is_possible(options, words):
    with pytest.raises(ValueError) as error:
        losses.divergence(*random_logits(2, 5), **options)
    assert all(word in str(error.value) for word in words), error.value
