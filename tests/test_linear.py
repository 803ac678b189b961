"""The fused losses are the dense ones, for every kind, chunk, mesh and head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from oracles import cross_entropy, oracle, softmax
from toys import assert_close, dot_products, equations

from kdjax import losses
from kdjax.config import MeshConfig
from kdjax.losses import DIVERGENCES, Head, LossSharding
from kdjax.losses.chunks import default_size
from kdjax.parallel.sharding import make_mesh

KINDS = list(DIVERGENCES)
OPTIONS = {"alpha": 0.3, "temperature": 2.0}
SIZE = 43  # ids: a prime, so that nothing divides it


def make_head(rng, width, *, size=SIZE, has_bias=False, **options):
    kernel = jnp.float32(rng.normal(size=(width, size)))
    bias = jnp.float32(rng.normal(size=size)) if has_bias else None
    return Head(kernel, bias, **options)


def make_case(shape=(8, 6), *, student=None, teacher=None, seed=0):
    """Returns the arguments of `linear_distillation`; a third of the tokens is out."""
    rng = np.random.default_rng(seed)
    sides = []
    for width, options in ((8, student or {}), (16, teacher or {})):
        hidden = jnp.float32(rng.normal(size=(*shape, width)))
        sides += [hidden, make_head(rng, width, **options)]
    labels = jnp.asarray(rng.integers(0, SIZE, shape))
    weights = jnp.float32(rng.random(shape) * (rng.random(shape) > 0.3))
    return *sides, labels, weights


def logits_of(hidden, head):
    """Returns the head's logits over its real ids, in float64."""
    bias = 0.0 if head.bias is None else np.float64(head.bias)
    logits = head.scale * (np.float64(hidden) @ np.float64(head.kernel) + bias)
    if head.softcap is not None:
        logits = head.softcap * np.tanh(logits / head.softcap)
    return logits[..., : head.valid]


def dense(
    student_hidden,
    student_head,
    teacher_hidden,
    teacher_head,
    labels,
    weights,
    **options,
):
    """Returns the same loss through whole logits."""
    logits = losses.apply_head(student_head, student_hidden)
    hard = losses.hard_loss(logits, labels)
    real = min(student_head.real, teacher_head.real)
    taught = losses.apply_head(teacher_head, teacher_hidden)[..., :real]
    alpha, temperature = options.pop("alpha"), options["temperature"]
    options.setdefault("kind", "forward_kl")
    soft = losses.divergence(logits[..., :real], taught, labels=labels, **options)
    return (weights * (alpha * temperature**2 * soft + (1 - alpha) * hard)).sum()


def fused(*case, **options):
    return losses.linear_distillation(*case, **options)[0]


def with_gradients(loss, case, **options):
    """Returns the loss and its gradients by the student's hidden states and head."""

    def by_student(hidden, head):
        return loss(hidden, head, *case[2:], **options)

    return jax.jit(jax.value_and_grad(by_student, argnums=(0, 1)))(*case[:2])


def assert_same(found, wanted, rtol=1e-5):
    """Compares the leaves; heads hold device arrays only."""
    leaves = (jax.device_get(jax.tree.leaves(x)) for x in (found, wanted))
    assert_close(*leaves, rtol)


HEADS = {
    "plain": {},
    "bias": {"has_bias": True},
    "scale": {"has_bias": True, "scale": 0.5},
    "softcap": {"has_bias": True, "scale": 2.0, "softcap": 3.0},
    "padded": {"size": 64, "valid": SIZE, "has_bias": True},
}
MESHES = [(8, 1, 1), (4, 1, 2), (2, 1, 4), (1, 1, 8), (1, 4, 2), (2, 2, 2)]


@functools.cache
def sharding(*shape):
    return LossSharding(make_mesh(MeshConfig(*shape)))


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS.keys())
def test_linear_distillation_is_its_formula_in_float64(options):
    case = make_case(student=options, teacher=options)
    student_hidden, student_head, teacher_hidden, teacher_head, labels, weights = case
    loss, parts = jax.jit(
        functools.partial(losses.linear_distillation, **OPTIONS, chunk_size=7)
    )(*case)
    student = logits_of(student_hidden, student_head)
    hard = cross_entropy(student, labels)
    soft = oracle(student, logits_of(teacher_hidden, teacher_head), "forward_kl", 2.0)
    np.testing.assert_allclose(parts.hard, np.where(weights, hard, 0.0), rtol=1e-5)
    np.testing.assert_allclose(parts.soft, np.where(weights, soft, 0.0), rtol=1e-5)
    total = (weights * (0.3 * 4 * soft + 0.7 * hard)).sum()
    np.testing.assert_allclose(loss, total, rtol=1e-5)


# Every kind on one device in chunks, and with the vocabulary cut: 43 ids over 8 devices
# are padded. The whole grid is slow.
GRID = {
    (kind, shape, chunk)
    for kind in KINDS
    for shape in (None, *MESHES)
    for chunk in (None, 1, 5)
    if shape is None or chunk != 1
}
SOME = {(kind, None, 5) for kind in KINDS}
SOME |= {(kind, (1, 4, 2), 5) for kind in KINDS}
SOME |= {("forward_kl", shape, 5) for shape in MESHES}


@pytest.mark.parametrize(
    ("kind", "shape", "chunk_size"),
    [
        *sorted(SOME, key=str),
        *(
            pytest.param(*x, marks=pytest.mark.slow)
            for x in sorted(GRID - SOME, key=str)
        ),
    ],
    ids=str,
)
def test_chunks_and_meshes_change_nothing(kind, shape, chunk_size):
    case = make_case(student=HEADS["softcap"], teacher={"size": 64, "valid": SIZE})
    options = {"chunk_size": chunk_size, "sharding": shape and sharding(*shape)}
    found = with_gradients(fused, case, **OPTIONS, kind=kind, **options)
    assert_same(found, with_gradients(dense, case, **OPTIONS, kind=kind))


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_alpha_and_temperature_may_be_traced(alpha, temperature):
    case = make_case()
    wanted = with_gradients(dense, case, alpha=alpha, temperature=temperature)
    fixed = with_gradients(fused, case, alpha=alpha, temperature=temperature)
    traced = jax.jit(functools.partial(with_gradients, fused, case))
    assert_same(fixed, wanted)
    assert_same(traced(alpha=alpha, temperature=temperature), wanted)


def test_a_divergence_s_parameter_may_be_traced():
    case = make_case()
    traced = jax.jit(lambda t: fused(*case, **OPTIONS, kind="taid", t=t))
    wanted = dense(*case, **OPTIONS, kind="taid", t=0.25)
    np.testing.assert_allclose(traced(0.25), wanted, rtol=1e-5)


@pytest.mark.parametrize("shape", [None, (1, 4, 2)], ids=str)
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ({"size": 64, "valid": 43}, {"size": 96, "valid": 43}),  # padded differently
        ({"size": 64, "valid": 47}, {"size": 96, "valid": 43}),  # teacher has fewer
        ({"size": 64, "valid": 43}, {"size": 64}),  # teacher has more
        ({"size": 43}, {"size": 47}),  # nobody padded
    ],
)
def test_ids_beyond_the_smaller_vocabulary_count_on_neither_side(
    student, teacher, shape
):
    case = make_case(student=student, teacher=teacher)
    options = OPTIONS | {"chunk_size": 5, "sharding": shape and sharding(*shape)}
    found = with_gradients(fused, case, **options)
    assert_same(found, with_gradients(dense, case, **OPTIONS))
    student_hidden, student_head, teacher_hidden, teacher_head, labels, weights = case
    _, parts = losses.linear_distillation(*case, **options)
    taken = weights > 0
    logits = logits_of(student_hidden, student_head)
    taught = logits_of(teacher_hidden, teacher_head)
    soft = oracle(logits[..., :43], taught[..., :43], "forward_kl", 2.0)
    np.testing.assert_allclose(parts.soft[taken], soft[taken], rtol=1e-5)
    # The labels are the student's business: all of its own ids compete.
    hard = cross_entropy(logits, labels)
    np.testing.assert_allclose(parts.hard[taken], hard[taken], rtol=1e-5, atol=1e-6)


def test_a_token_of_weight_0_is_left_out_whatever_it_holds():
    hidden, head, teacher_hidden, teacher_head, labels, _ = make_case(shape=(12,))
    kept, out = np.array([0, 3, 4, 9]), np.array([1, 2, 5, 6, 7, 8, 10, 11])
    weights = jnp.zeros(12).at[kept].set(1.0)
    case = (
        hidden.at[out[:3]].set(jnp.nan),
        head,
        teacher_hidden.at[out[3:]].set(jnp.inf),
        teacher_head,
        labels,
        weights,
    )
    loss, (by_hidden, by_head) = with_gradients(fused, case, **OPTIONS, chunk_size=5)
    case = tuple(x if isinstance(x, Head) else x[kept] for x in case)
    assert_same(
        (loss, (by_hidden[kept], by_head)), with_gradients(dense, case, **OPTIONS)
    )
    assert not by_hidden[out].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_a_weight_is_0_and_moves_nothing(kind):
    *case, weights = make_case(shape=(4, 3))
    case[0] = case[0].at[0].set(jnp.nan)
    found = with_gradients(fused, (*case, 0.0 * weights), **OPTIONS, kind=kind)
    assert not any(np.any(x) for x in jax.tree.leaves(found))


def test_gradients_reach_the_student_alone():
    case = make_case(student={"has_bias": True}, teacher={"has_bias": True})
    found = jax.grad(lambda models: fused(*models, *case[4:], **OPTIONS))(case[:4])
    assert all(x.any() for x in jax.tree.leaves(found[:2]))
    assert not any(x.any() for x in jax.tree.leaves(found[2:]))


def test_the_parts_carry_no_gradient():
    case = make_case()

    def value(hidden, head):
        _, parts = losses.linear_distillation(hidden, head, *case[2:], **OPTIONS)
        _, hard = losses.linear_cross_entropy(hidden, head, *case[4:])
        return parts.hard.sum() + parts.soft.sum() + hard.sum()

    found = jax.grad(value, argnums=(0, 1))(*case[:2])
    assert not any(x.any() for x in jax.tree.leaves(found))


def test_the_gradient_follows_what_is_done_with_the_loss():
    case = make_case()
    found = with_gradients(lambda *x, **o: fused(*x, **o) ** 2, case, **OPTIONS)
    wanted = with_gradients(lambda *x, **o: dense(*x, **o) ** 2, case, **OPTIONS)
    assert_same(found, wanted)


def test_a_tied_head_s_gradient_joins_the_embedding_s():
    hidden, head, *rest = make_case()

    def value(table, loss):
        embedded = hidden + table[rest[2]]
        return loss(embedded, Head(table.T), *rest, **OPTIONS)

    found, wanted = (jax.grad(value)(head.kernel.T, f) for f in (fused, dense))
    assert_same(found, wanted)


def products(function, *arguments):
    """Returns the FLOPs of the matrix products, sorted."""
    return sorted(dot_products(function, *arguments))


def test_three_products_with_the_student_s_head_one_with_the_teacher_s():
    hidden, head, *rest = make_case(shape=(16, 4))
    tokens = 64
    student, teacher = (2 * tokens * width * SIZE for width in (8, 16))

    def loss(hidden, head):
        return fused(hidden, head, *rest, **OPTIONS, chunk_size=16)

    def frozen(hidden, head):
        return loss(hidden, jax.lax.stop_gradient(head))

    everything = products(jax.grad(loss, argnums=(0, 1)), hidden, head)
    assert everything == sorted([student] * 3 + [teacher])
    # A frozen head needs no gradient of its own, an evaluation none at all.
    for gradient in (jax.grad(loss), jax.grad(frozen, argnums=(0, 1))):
        found = products(gradient, hidden, head)
        assert found == sorted([student] * 2 + [teacher])
    assert products(loss, hidden, head) == sorted([student, teacher])


def largest(function, *arguments):
    """Returns the most elements of any array that a function's jaxpr makes."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return max(v.aval.size for e in equations(jaxpr) for v in e.outvars)


@pytest.mark.parametrize("kind", KINDS)
def test_no_array_of_tokens_by_vocabulary_exists(kind):
    hidden, head, *rest = make_case(shape=(16, 32))
    tokens, widest = 512, 16

    def everything(loss, **options):
        def by_student(hidden, head):
            return loss(hidden, head, *rest, **OPTIONS, kind=kind, **options)

        return largest(jax.grad(by_student, argnums=(0, 1)), hidden, head)

    assert everything(fused, chunk_size=64) <= tokens * widest < tokens * SIZE
    assert everything(dense) >= tokens * SIZE


def test_linear_cross_entropy_is_the_hard_loss():
    hidden, head, _, _, labels, weights = make_case(student=HEADS["padded"])

    def whole(hidden, head):
        hard = losses.hard_loss(losses.apply_head(head, hidden), labels)
        return (weights * hard).sum()

    wanted = jax.jit(jax.value_and_grad(whole, argnums=(0, 1)))(hidden, head)
    for spread in (None, sharding(1, 4, 2)):

        def chunked(hidden, head, spread=spread):
            return losses.linear_cross_entropy(
                hidden, head, labels, weights, chunk_size=5, sharding=spread
            )[0]

        found = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1)))(hidden, head)
        assert_same(found, wanted)


@pytest.mark.parametrize("shape", [None, (1, 4, 2)], ids=str)
def test_metrics_are_those_of_whole_logits(shape):
    case = make_case(student={"size": 64, "valid": 47}, teacher=HEADS["padded"])
    student_hidden, student_head, teacher_hidden, teacher_head, labels, _ = case
    found = jax.jit(
        lambda *x: losses.linear_metrics(
            *x, chunk_size=5, sharding=shape and sharding(*shape)
        )
    )(student_hidden, student_head, labels, teacher_hidden, teacher_head)
    logits = logits_of(student_hidden, student_head)
    taught = logits_of(teacher_hidden, teacher_head)
    common = logits[..., :43]
    wanted = {
        "cross_entropy": cross_entropy(logits, labels),
        "confidence": softmax(logits).max(-1),
        "correct": logits.argmax(-1) == labels,
        "forward_kl": oracle(common, taught, "forward_kl"),
        "reverse_kl": oracle(common, taught, "reverse_kl"),
        "agreement": common.argmax(-1) == taught.argmax(-1),
        "acceptance": 1.0 - oracle(common, taught, "total_variation"),
        "teacher_entropy": scipy.stats.entropy(softmax(taught), axis=-1),
    }
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("width", "ids", "platform", "size"),
    [
        (768, 50304, "cpu", 192),
        (768, 50304, "tpu", 1024),  # no wait for the memory of a narrow head
        (768, 50304, "gpu", 1024),
        (640, 262144, "tpu", 256),  # as many as half a GiB holds
        (2048, 151936, "tpu", 512),  # as many as the head's own gradient pays for
        (8192, 128256, "tpu", 2048),
        (64, 1000, "tpu", 4096),  # all
    ],
)
def test_chunks_are_large_enough_for_the_device_and_small_beside_the_head(
    width, ids, platform, size
):
    assert default_size(4096, width, ids, platform) == size


@pytest.mark.parametrize("chunks", [1, 16, 256])
def test_bfloat16_is_summed_in_float32_however_many_chunks(chunks):
    # Summed in bfloat16, 256 chunks leave an error of 2e-2 in the head's gradient.
    hidden, head, *rest = make_case(shape=(1024,), seed=3)
    narrow = (
        hidden.astype(jnp.bfloat16),
        Head(head.kernel.astype(jnp.bfloat16)),
        rest[0].astype(jnp.bfloat16),
        Head(rest[1].kernel.astype(jnp.bfloat16)),
        *rest[2:],
    )
    wide = jax.tree.map(
        lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, narrow
    )
    size = 1024 // chunks
    value, found = with_gradients(fused, narrow, **OPTIONS, chunk_size=size)
    wanted, exact = with_gradients(dense, wide, **OPTIONS)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for x, y in zip(*map(jax.tree.leaves, (found, exact)), strict=True):
        assert x.dtype == jnp.bfloat16
        error = jnp.linalg.norm(x.astype(jnp.float32) - y) / jnp.linalg.norm(y)
        assert error < 5e-3


def test_float32_parameters_keep_a_float32_gradient_under_bfloat16_hidden_states():
    hidden, head, *rest = make_case()
    narrow = hidden.astype(jnp.bfloat16), head, rest[0].astype(jnp.bfloat16), *rest[1:]
    _, (by_hidden, by_head) = with_gradients(fused, narrow, **OPTIONS)
    assert by_hidden.dtype == jnp.bfloat16
    assert by_head.kernel.dtype == jnp.float32
    rounded = by_head.kernel.astype(jnp.bfloat16).astype(jnp.float32)
    assert (by_head.kernel != rounded).any()


def test_the_head_s_gradient_is_scattered_and_nothing_else_moves():
    spread = sharding(1, 4, 2)
    case = make_case(student={"size": 48}, teacher={"size": 48})
    tokens, matrix = (
        NamedSharding(spread.mesh, P(*axes))
        for axes in ((("data", "fsdp"),), ("fsdp", "tensor"))
    )
    hidden, kernel, *rest = (
        jax.device_put(x.kernel, matrix)
        if isinstance(x, Head)
        else jax.device_put(x, tokens)
        for x in case
    )

    def by_student(hidden, kernel, teacher_hidden, teacher_kernel, *rest):
        heads = Head(kernel), Head(teacher_kernel)
        case = hidden, heads[0], teacher_hidden, heads[1], *rest
        return fused(*case, **OPTIONS, chunk_size=3, sharding=spread)

    gradient = jax.jit(jax.grad(by_student, argnums=(0, 1)))
    compiled = gradient.lower(hidden, kernel, *rest).compile()
    assert compiled.output_shardings[1].is_equivalent_to(matrix, 2)
    text = compiled.as_text()
    names = "all-gather", "all-to-all", "collective-permute", "reduce-scatter"
    count = {name: text.count(f" {name}(") for name in names}
    assert count["all-gather"] == 2  # each head once
    assert count["reduce-scatter"] == 1  # the gradient once
    assert count["all-to-all"] == count["collective-permute"] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "kl"}, ["unknown divergence 'kl'", "forward_kl", "jsd"]),
        ({"kind": "jsd", "beta": 2.0}, ["beta must be in [0, 1]"]),
        ({"temperature": 0.0}, ["temperature must be > 0"]),
        ({"temperature": np.inf}, ["temperature must be > 0"]),
        ({"alpha": 1.5}, ["alpha must be in [0, 1]"]),
        ({"chunk_size": 0}, ["chunk_size must be at least 1"]),
    ],
)
def test_a_mistake_is_answered_with_what_is_possible(changes, words):
    with pytest.raises(ValueError) as error:
        fused(*make_case(), **OPTIONS | changes)
    assert all(word in str(error.value) for word in words)


def test_widths_and_vocabularies_that_cannot_go_together_are_refused():
    hidden, head, *rest = make_case()
    with pytest.raises(ValueError, match=r"hidden states .* 16 wide; .* reads 8"):
        fused(rest[0], head, *rest, **OPTIONS)
    other = Head(jnp.zeros((16, 2000)))
    with pytest.raises(ValueError, match=r"43 ids and the teacher's 2000"):
        fused(hidden, head, rest[0], other, *rest[2:], **OPTIONS)
