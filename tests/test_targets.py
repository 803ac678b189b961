"""Targets of every origin are one target: in chunks, over meshes, beside each other."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import cross_entropy, oracle, softmax
from toys import assert_close, dot_products

from kdjax import losses
from kdjax.config import MeshConfig
from kdjax.losses import (
    DIVERGENCES,
    Ensemble,
    FromHidden,
    FromSparse,
    Head,
    LossSharding,
    SoftValues,
)
from kdjax.parallel.sharding import make_mesh

SIZE = 43  # ids: a prime, so that nothing divides it
SHAPE = 8, 6
MESHES = [None, (1, 4, 2), (1, 1, 8), (2, 2, 2)]
# Infinite, or without a meaning, where the teacher has ids of probability zero.
NEEDS_ALL = {"reverse_kl", "adaptive_kl", "logit_mse", "taid"}


@functools.cache
def sharding(shape):
    return shape and LossSharding(make_mesh(MeshConfig(*shape)))


def make_model(seed, width, *, size=SIZE, valid=None):
    rng = np.random.default_rng(seed)
    hidden = jnp.float32(rng.normal(size=(*SHAPE, width)))
    return FromHidden(
        hidden, Head(jnp.float32(rng.normal(size=(width, size))), valid=valid)
    )


def logits_of(model):
    """Returns the logits over the real ids, in float64."""
    logits = np.float64(model.hidden) @ np.float64(model.head.kernel)
    return logits[..., : model.real]


STUDENT, WIDE, DEEP = make_model(0, 8), make_model(1, 16), make_model(2, 12)
RNG = np.random.default_rng(9)
LABELS = jnp.asarray(RNG.integers(0, SIZE - 2, SHAPE))
WEIGHTS = jnp.float32(RNG.random(SHAPE) * (RNG.random(SHAPE) > 0.3))


def fused(targets, soft, *, hard=0.5, shape=None, chunk_size=5, student=STUDENT):
    """Returns loss and parts, and the gradients by hidden states and head."""

    def loss(hidden, head, targets):
        return losses.fused_loss(
            *(hidden, head, LABELS, WEIGHTS, targets),
            hard=hard,
            soft=soft,
            chunk_size=chunk_size,
            sharding=sharding(shape),
        )

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    return jax.device_get(jax.jit(gradient)(student.hidden, student.head, targets))


def soft_of(kind, weight=0.5, temperature=2.0):
    return {"teacher": SoftValues(kind, weight, temperature)}


def mean_logits(models, weights):
    """Returns the logarithm of the mean of the probabilities, in float64."""
    weights = np.float64(weights) / np.sum(weights)
    probs = [w * softmax(logits_of(m)) for w, m in zip(weights, models, strict=True)]
    return np.log(sum(probs))


@pytest.mark.parametrize("shape", MESHES, ids=str)
@pytest.mark.parametrize("kind", ["forward_kl", "jsd"])
def test_an_ensemble_of_one_is_its_member_to_the_bit(kind, shape):
    alone = fused({"teacher": WIDE}, soft_of(kind), shape=shape)
    together = fused({"teacher": Ensemble((WIDE,), (3.0,))}, soft_of(kind), shape=shape)
    jax.tree.map(np.testing.assert_array_equal, together, alone)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *itertools.product(DIVERGENCES, [None]),
        *((k, s) for k in ("forward_kl", "jsd") for s in MESHES[1:]),
    ],
    ids=str,
)
def test_an_ensemble_is_the_mean_of_probabilities_in_float64(kind, shape):
    members, weights = (WIDE, DEEP), (1.0, 3.0)
    ensemble = Ensemble(members, weights)
    (loss, parts), _ = fused({"teacher": ensemble}, soft_of(kind), shape=shape)
    student, teacher = logits_of(STUDENT), mean_logits(members, weights)
    defaults = {k: p.default for k, p in DIVERGENCES[kind].parameters.items()}
    soft = oracle(student, teacher, kind, 2.0, LABELS, **defaults)
    hard = cross_entropy(student, LABELS)
    taken = np.asarray(WEIGHTS) > 0
    np.testing.assert_allclose(parts.soft["teacher"][taken], soft[taken], rtol=2e-5)
    np.testing.assert_allclose(loss, (WEIGHTS * (2 * soft + hard / 2)).sum(), rtol=1e-5)


def test_an_ensemble_s_gradient_is_that_of_the_mean_s_distribution():
    members, weights = (WIDE, DEEP), (1.0, 3.0)
    dense = FromSparse(
        jnp.broadcast_to(jnp.arange(SIZE), (*SHAPE, SIZE)),
        jnp.float32(mean_logits(members, weights)),
        real=SIZE,
    )
    found = fused({"teacher": Ensemble(members, weights)}, soft_of("forward_kl"))
    wanted = fused({"teacher": dense}, soft_of("forward_kl"))
    assert_close(*map(jax.tree.leaves, (found, wanted)), rtol=1e-5)


def test_members_that_are_padded_differently_are_compared_on_common_ids():
    members = (
        make_model(1, 16, size=64, valid=SIZE),
        make_model(2, 12, size=48, valid=41),
    )
    student = make_model(0, 8, size=64, valid=SIZE)
    found = fused(
        {"teacher": Ensemble(members, (1.0, 1.0))},
        soft_of("forward_kl"),
        student=student,
        shape=(1, 4, 2),
    )
    taught = np.log(sum(softmax(logits_of(m)[..., :41]) / 2 for m in members))
    soft = oracle(logits_of(student)[..., :41], taught, "forward_kl", 2.0)
    taken = np.asarray(WEIGHTS) > 0
    (_, parts), _ = found
    np.testing.assert_allclose(parts.soft["teacher"][taken], soft[taken], rtol=1e-5)


def sparse(logits, count, *, has_rest, seed=0):
    """Returns the likeliest ids as targets, in any order, and the dense logarithms."""
    logs = np.log(softmax(logits))
    ids = np.argsort(-logs, -1, kind="stable")[..., :count]
    ids = np.random.default_rng(seed).permuted(ids, axis=-1)
    chosen = np.take_along_axis(logs, ids, -1)
    others = np.maximum(1 - np.exp(chosen).sum(-1), 1e-30)
    fill = np.full(others.shape, -np.inf)
    if has_rest:
        fill = np.log(others / max(SIZE - count, 1))
    dense = np.broadcast_to(fill[..., None], logs.shape).copy()
    np.put_along_axis(dense, ids, chosen, -1)
    rest = jnp.float32(np.log(others)) if has_rest else None
    return FromSparse(jnp.asarray(ids), jnp.float32(chosen), rest, real=SIZE), dense


SPARSE = [
    pytest.param(
        *(kind, count, has_rest, shape),
        marks=[pytest.mark.slow] if shape and kind not in ("forward_kl", "jsd") else [],
    )
    for kind, (count, has_rest), shape in itertools.product(
        DIVERGENCES, [(SIZE, False), (7, True), (7, False)], [None, (1, 4, 2)]
    )
    if has_rest or count == SIZE or kind not in NEEDS_ALL
]


@pytest.mark.parametrize(("kind", "count", "has_rest", "shape"), SPARSE, ids=str)
def test_sparse_targets_are_the_dense_ones_they_stand_for(kind, count, has_rest, shape):
    targets, logits = sparse(logits_of(WIDE), count, has_rest=has_rest)
    found = fused({"teacher": targets}, soft_of(kind), shape=shape)

    @jax.jit
    def dense(hidden, head):
        student = losses.apply_head(head, hidden)
        soft = losses.divergence(
            student, jnp.float32(logits), kind=kind, temperature=2.0, labels=LABELS
        )
        hard = losses.hard_loss(student, LABELS)
        return (WEIGHTS * (0.5 * 4.0 * soft + 0.5 * hard)).sum()

    wanted = jax.value_and_grad(dense, argnums=(0, 1))(STUDENT.hidden, STUDENT.head)
    assert np.isfinite(wanted[0])
    (loss, _), gradients = found
    assert_close(*map(jax.tree.leaves, ((loss, gradients), wanted)), rtol=2e-5)


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_empty_places_and_ids_beyond_the_vocabulary_are_no_entries(shape):
    targets, _ = sparse(logits_of(WIDE), 7, has_rest=True)
    wanted = fused({"teacher": targets}, soft_of("forward_kl"), shape=shape)
    extra = jnp.broadcast_to(jnp.array([-1, -44, SIZE, 10**9]), (*SHAPE, 4))
    padded = FromSparse(
        jnp.concatenate([extra, targets.ids], -1),
        jnp.concatenate([jnp.full(extra.shape, 5.0), targets.logs], -1),
        targets.rest,
        real=SIZE,
    )
    found = fused({"teacher": padded}, soft_of("forward_kl"), shape=shape)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("shape", [None, (1, 4, 2)], ids=str)
def test_several_targets_add_up_each_with_its_own_values(shape):
    sparse_targets, _ = sparse(logits_of(DEEP), 9, has_rest=True)
    targets = {"wide": WIDE, "cached": sparse_targets}
    soft = {
        "wide": SoftValues("jsd", 0.3, 3.0, {"beta": 0.2}),
        "cached": SoftValues("forward_kl", 0.6, 1.0),
    }
    (loss, parts), gradients = fused(targets, soft, hard=0.1, shape=shape)
    pieces = [fused({}, {}, hard=0.1)]
    for name in targets:
        pieces.append(fused({name: targets[name]}, {name: soft[name]}, hard=0.0))
    total = jax.tree.map(
        lambda *x: sum(x), *[(piece[0][0], piece[1]) for piece in pieces]
    )
    assert_close(*map(jax.tree.leaves, ((loss, gradients), total)), rtol=1e-5)
    assert set(parts.soft) == {"wide", "cached"}


def test_weights_and_temperatures_of_several_targets_may_be_traced():
    targets = {"wide": WIDE, "deep": DEEP}

    @jax.jit
    def traced(weight, temperature):
        soft = {
            "wide": SoftValues(weight=weight, temperature=temperature),
            "deep": SoftValues("jsd", weight=1.0 - weight),
        }
        return losses.fused_loss(
            *(STUDENT.hidden, STUDENT.head, LABELS, WEIGHTS, targets),
            hard=weight,
            soft=soft,
        )[0]

    soft = {
        "wide": SoftValues(weight=0.25, temperature=3.0),
        "deep": SoftValues("jsd", 0.75),
    }
    (wanted, _), _ = fused(targets, soft, hard=0.25)
    np.testing.assert_allclose(traced(0.25, 3.0), wanted, rtol=1e-6)


def test_each_teacher_costs_one_product_and_sparse_targets_none():
    sparse_targets, _ = sparse(logits_of(DEEP), 9, has_rest=True)
    targets = {"a": Ensemble((WIDE, DEEP), (1.0, 1.0)), "b": sparse_targets}
    soft = {name: SoftValues() for name in targets}

    def loss(hidden, head):
        return losses.fused_loss(
            *(hidden, head, LABELS, WEIGHTS, targets),
            hard=1.0,
            soft=soft,
            chunk_size=16,
        )[0]

    gradient = jax.grad(loss, argnums=(0, 1))
    found = sorted(dot_products(gradient, STUDENT.hidden, STUDENT.head))
    products = [2 * 48 * width * SIZE for width in (8, 8, 8, 16, 12)]
    assert found == sorted(products)


@pytest.mark.parametrize("shape", [None, (1, 4, 2)], ids=str)
def test_an_ensemble_may_be_what_is_evaluated(shape):
    members, weights = (WIDE, DEEP), (1.0, 3.0)
    ensemble = Ensemble(members, weights)
    found = jax.jit(
        lambda e: losses.token_metrics(
            e, LABELS, e, chunk_size=5, sharding=sharding(shape)
        )
    )(ensemble)
    logits = mean_logits(members, weights)
    np.testing.assert_allclose(
        found["cross_entropy"], cross_entropy(logits, LABELS), rtol=1e-5
    )
    np.testing.assert_allclose(found["confidence"], softmax(logits).max(-1), rtol=1e-5)
    np.testing.assert_allclose(found["forward_kl"], 0.0, atol=1e-6)
    assert (found["agreement"] == 1).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Ensemble((), ()), "at least one"),
        (lambda: Ensemble((WIDE,), (1.0, 2.0)), "one weight for each of its 1"),
        (lambda: Ensemble((WIDE, DEEP), (1.0, 0.0)), "must be > 0"),
        (lambda: fused({"a": WIDE}, {}), r"soft values \[\] must be for the targets"),
        (
            lambda: fused({"a": WIDE}, {"a": SoftValues(weight=-1.0)}),
            "soft loss must be",
        ),
        (lambda: fused({}, {}, hard=-1.0), "hard loss must be >= 0"),
        (
            lambda: fused({"a": make_model(1, 4, size=1200)}, {"a": SoftValues()}),
            "the a's 1200",
        ),
        (
            lambda: fused(
                {
                    "a": FromSparse(
                        jnp.zeros((8, 5, 2), int), jnp.zeros((8, 5, 2)), real=SIZE
                    )
                },
                {"a": SoftValues()},
            ),
            "must be for the same tokens",
        ),
    ],
)
def test_mistakes_are_answered_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
