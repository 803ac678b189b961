"""The step computes one number, whatever the machine, and touches only the student."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import cross_entropy, kl, softmax
from toys import assert_close, dot_products, equations, packed_batch, random_params

from kdjax import losses, models
from kdjax.config import DistillConfig, MeshConfig, ModelConfig, ScheduleConfig
from kdjax.evaluation.held_out import evaluate, make_eval_step
from kdjax.parallel.sharding import (
    AXES,
    abstract,
    data_shard,
    make_mesh,
    make_placement,
    shardings,
    to_devices,
)
from kdjax.targets.online import of_ensemble, of_model
from kdjax.train.learner import whole_model
from kdjax.train.objective import distillation, hard_labels
from kdjax.train.state import TrainState
from kdjax.train.step import make_train_step
from kdjax.train.task import next_token_task

# Everything divides by 8, so that every mesh of 8 devices can cut it.
STUDENT = ModelConfig(width=64, heads=8, ffn_width=64, vocab_size=120, mlp="plain")
TEACHER = ModelConfig(
    width=128, heads=8, ffn_width=64, vocab_size=120, norm="layernorm", mlp="plain"
)
TEACHER_RULES = (
    (r"mlp/up/kernel$", (None, "tensor", "fsdp")),
    (r"attention/.*/kernel$", ()),
    (r"embed/tokens$", ("fsdp", None)),
)
SMALL = ModelConfig(layers=1, width=16, heads=2, vocab_size=60, mlp="plain")
MESHES = [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)]


def keep_gradient():
    """An optimiser that moves nothing and keeps the gradient as its state."""
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return optax.GradientTransformation(
        zeros, lambda gradient, state, params=None: (zeros(gradient), gradient)
    )


def soft_targets(teacher, alpha=0.5, temperature=2.0, **options):
    config = DistillConfig(alpha=alpha, temperature=temperature, **options)
    return distillation(of_model(teacher), config, 10)


def train_step(student, optimizer, objective=None, **options):
    objective, task = objective or hard_labels(), next_token_task()
    return make_train_step(whole_model(student), optimizer, objective, task, **options)


def eval_step(*models_):
    return make_eval_step(next_token_task(), *map(of_model, models_))


def start(params, optimizer):
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


@functools.cache
def on_one_device(is_distilled):
    student, teacher = models.build(STUDENT), models.build(TEACHER)
    optimizer = keep_gradient()
    step = train_step(
        student, optimizer, soft_targets(teacher) if is_distilled else None
    )
    batch = jax.tree.map(jnp.asarray, packed_batch(32, 16, 120))
    state = start(random_params(student), optimizer)
    state, metrics = step(state, random_params(teacher) if is_distilled else {}, batch)
    return metrics["loss"].compute(), jax.device_get(state.opt_state)


# Every case compiles for seconds, so only some of them run by default.
ALL = set(itertools.product([True, False], MESHES, [1, 4]))
SOME = {(True, mesh, 4) for mesh in MESHES} | {(False, (2, 2, 2), 4)}


@pytest.mark.parametrize(
    ("is_distilled", "shape", "micro_batches"),
    [
        *sorted(SOME),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in sorted(ALL - SOME)),
    ],
    ids=str,
)
def test_loss_and_gradient_know_neither_mesh_nor_micro_batches(
    is_distilled, shape, micro_batches
):
    mesh = make_mesh(MeshConfig(*shape))
    student, teacher = (
        models.build(model, placement=make_placement(mesh, rules))
        for model, rules in ((STUDENT, ()), (TEACHER, TEACHER_RULES))
    )
    optimizer = keep_gradient()
    state = start(random_params(student), optimizer)
    placed = shardings(state, mesh)
    teacher_params = {}
    if is_distilled:
        teacher_params = random_params(teacher)
        where = shardings(teacher_params, mesh, TEACHER_RULES)
        teacher_params = jax.device_put(teacher_params, where)
    step = train_step(
        student,
        optimizer,
        soft_targets(teacher) if is_distilled else None,
        micro_batches=micro_batches,
        state_shardings=placed,
        loss_sharding=losses.LossSharding(mesh),
    )
    batch = to_devices(packed_batch(32, 16, 120), mesh, data_shard(mesh, 32))
    state, metrics = step(jax.device_put(state, placed), teacher_params, batch)
    expected_loss, expected = on_one_device(is_distilled)
    assert metrics["loss"].compute() == pytest.approx(expected_loss, rel=1e-5)
    assert_close(jax.device_get(state.opt_state), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "in_loops"), [((8, 1, 1), set()), ((2, 4, 1), {"fsdp"})], ids=str
)
def test_the_data_axis_reduces_gradients_once_whatever_the_micro_batches(
    shape, in_loops
):
    mesh = make_mesh(MeshConfig(*shape))
    student = models.build(STUDENT, placement=make_placement(mesh))
    optimizer = keep_gradient()
    state = jax.eval_shape(lambda: start(random_params(student), optimizer))
    placed = shardings(state, mesh)
    step = train_step(
        student,
        optimizer,
        micro_batches=4,
        state_shardings=placed,
        loss_sharding=losses.LossSharding(mesh),
    )
    batch = to_devices(packed_batch(32, 16, 120), mesh, data_shard(mesh, 32))
    program = step.lower(abstract(state, placed), {}, batch).compile().as_text()
    assert axes_of_collectives(program, shape, in_loops=True) == in_loops
    assert "data" in axes_of_collectives(program, shape, in_loops=False)


@pytest.mark.slow
def test_the_tensor_axis_exchanges_activations_and_never_weights():
    """In both passes: a gradient goes back the way that its value came."""
    mesh = make_mesh(MeshConfig(1, 1, 8))
    config = dataclasses.replace(STUDENT, mlp="gated", ffn_width=256, remat="block")
    student = models.build(config, placement=make_placement(mesh))
    optimizer = keep_gradient()
    state = jax.eval_shape(lambda: start(random_params(student), optimizer))
    placed = shardings(state, mesh)
    options = {"state_shardings": placed, "loss_sharding": losses.LossSharding(mesh)}
    step = train_step(student, optimizer, **options)
    batch = to_devices(packed_batch(4, 128, 120), mesh, data_shard(mesh, 4))
    program = step.lower(abstract(state, placed), {}, batch).compile().as_text()
    kinds = r"(?:all-gather|all-to-all|all-reduce|reduce-scatter)\("
    found = set()
    for line in program.splitlines():
        call = re.search(r"= (.*?) " + kinds, line)
        if call and re.search(r"Decoder\)+/while/body", line):
            found |= {*re.findall(r"\w+\[([\d,]+)\]", call[1])}
    assert "4,128,64" in found
    assert found <= {"4,128,64", "4,16,64", "64"}  # residuals, and the norms' scales


def axes_of_collectives(program, shape, *, in_loops):
    """Returns along which axes of the mesh a compiled program's devices communicate."""
    places = np.indices(shape).reshape(3, -1)
    found = set()
    for line in program.splitlines():
        groups = re.search(
            r"(?:replica_groups|source_target_pairs)=(mesh[^{]*\S+|\S+\}|\[\S+)", line
        )
        if groups and ("while/body" in line) is in_loops:
            for group in devices_of(groups[1]):
                differ = np.ptp(places[:, group], axis=1) > 0
                found |= {a for a, d in zip(AXES, differ, strict=True) if d}
    return found


def devices_of(text):
    """Returns the groups of devices that an instruction lists in any notation."""
    if text.startswith("mesh"):  # mesh['data'=2,'fsdp'=4] {'data'}
        of, along = (re.findall(r"'\w+'(?:=\d+)?", x) for x in text.split("]", 1))
        names, sizes = zip(*(axis.split("=") for axis in of), strict=True)
        last = [names.index(axis) for axis in along]
        ids = np.arange(8).reshape([*map(int, sizes)])
        ids = np.moveaxis(ids, last, range(-len(last), 0))
        return ids.reshape(-1, np.prod(ids.shape[-len(last) :])).tolist()
    if text.startswith("{"):
        return [[*map(int, g.split(","))] for g in re.findall(r"\{([\d,]+)\}", text)]
    sizes, order, turned = re.match(
        r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text
    ).groups()
    sizes, order = ([*map(int, x.split(","))] for x in (sizes, order))
    ids = np.arange(8).reshape(order)
    if turned:
        ids = ids.transpose([*map(int, turned.split(","))])
    return ids.reshape(sizes).tolist()


def test_an_ensemble_of_one_makes_the_step_of_its_member_to_the_bit():
    student, teacher = models.build(STUDENT), models.build(TEACHER)
    optimizer, params = optax.adam(0.03), random_params(teacher)
    batch = jax.tree.map(jnp.asarray, packed_batch(8, 16, 120))
    config, states = DistillConfig(alpha=0.5, temperature=2.0), []
    alone = of_model(teacher), params
    together = of_ensemble({"one": teacher}, {"one": 3.0}), {"one": params}
    for predict, frozen in (alone, together):
        step = train_step(student, optimizer, distillation(predict, config, 10))
        state = start(random_params(student), optimizer)
        for _ in range(3):
            state, _ = step(state, frozen, batch)
        states.append(jax.device_get(state))
    assert_bitwise_equal(*states)


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 1, 8)], ids=str)
def test_an_ensemble_s_step_knows_neither_mesh_nor_micro_batches(shape):
    """Of teachers of other widths and another family, with rules of their own."""
    configs = {"wide": (TEACHER, TEACHER_RULES), "other": (STUDENT, ())}
    frozen = {
        name: jax.tree.map(lambda x: 3 * x, random_params(models.build(config)))
        for name, (config, _) in configs.items()
    }
    optimizer, weights = keep_gradient(), {"wide": 1.0, "other": 2.0}
    soft = DistillConfig(alpha=0.5, temperature=2.0)
    found = []
    for mesh in (None, make_mesh(MeshConfig(*shape))):
        placed = {
            name: None if mesh is None else make_placement(mesh, rules)
            for name, (_, rules) in {**configs, "student": (STUDENT, ())}.items()
        }
        teachers = {
            name: models.build(config, placement=placed[name])
            for name, (config, _) in configs.items()
        }
        student = models.build(STUDENT, placement=placed["student"])
        state = start(random_params(student), optimizer)
        batch, params, options = packed_batch(32, 16, 120), frozen, {}
        if mesh is None:
            batch = jax.tree.map(jnp.asarray, batch)
        else:
            state = jax.device_put(state, shardings(state, mesh))
            batch = to_devices(batch, mesh, data_shard(mesh, 32))
            params = {
                name: jax.device_put(x, shardings(x, mesh, configs[name][1]))
                for name, x in frozen.items()
            }
            options = {"loss_sharding": losses.LossSharding(mesh), "micro_batches": 4}
        objective = distillation(of_ensemble(teachers, weights), soft, 10)
        state, metrics = train_step(student, optimizer, objective, **options)(
            state, params, batch
        )
        found.append((metrics["loss"].compute(), jax.device_get(state.opt_state)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert_close(found[1][1], found[0][1], rtol=1e-5)


class Toy:
    """A step on 8 devices, compiled once for many tests."""

    def __init__(self):
        self.mesh = make_mesh(MeshConfig(2, 2, 2))
        placement = make_placement(self.mesh)
        self.config = SMALL
        student = models.build(self.config, placement=placement)
        self.teacher = models.build(self.config, placement=placement)
        self.optimizer = optax.adam(0.03)
        self.params = jax.device_get(random_params(student))  # not to be donated
        placed = shardings(start(self.params, self.optimizer), self.mesh)
        self.step = train_step(
            student,
            self.optimizer,
            soft_targets(self.teacher),
            state_shardings=placed,
            loss_sharding=losses.LossSharding(self.mesh),
        )
        self.place = functools.partial(jax.device_put, device=placed)

    def state(self):
        return self.place(start(self.params, self.optimizer))

    def teacher_params(self, change=lambda x: 2.0 * x):
        params = jax.tree.map(change, self.params)
        return jax.device_put(params, shardings(params, self.mesh))

    def batch(self, seed=0, change=lambda x: x):
        batch = jax.tree.map(change, packed_batch(8, 12, 60, seed))
        return to_devices(batch, self.mesh, data_shard(self.mesh, 8))


@pytest.fixture(scope="module")
def toy():
    return Toy()


def assert_bitwise_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_step_compiles_once_consumes_its_state_and_leaves_the_teacher_alone(toy):
    teacher_params, state = toy.teacher_params(), toy.state()
    before = jax.device_get(teacher_params)
    for seed in range(3):
        old = state
        state, _ = toy.step(old, teacher_params, toy.batch(seed))
        assert all(x.is_deleted() for x in jax.tree.leaves(old))
    assert toy.step._cache_size() == 1
    taken = toy.step.lower(state, teacher_params, toy.batch()).args_info[0]
    assert [{x.donated for x in jax.tree.leaves(part)} for part in taken] == [
        {True},
        {False},
        {False},
    ]
    assert int(state.step) == 3
    assert_bitwise_equal(jax.device_get(teacher_params), before)
    changed = jax.tree.map(lambda x, y: (x != y).any(), state.params, toy.params)
    assert all(jax.tree.leaves(changed))


def test_the_gradient_is_that_of_the_mean_over_the_batch_s_tokens(toy):
    plain, batch = models.build(toy.config), jax.device_get(toy.batch())
    inputs = jnp.asarray(batch["tokens"]), jnp.asarray(batch["segments"])
    labels, weights = losses.next_token(*inputs)

    @jax.jit
    @jax.value_and_grad
    def mean(params, teacher_params):
        logits = [plain.logits(p, *inputs)[..., :60] for p in (params, teacher_params)]
        values = losses.distillation_loss(*logits, labels, alpha=0.5, temperature=2.0)
        return (weights * values).sum() / weights.sum()

    expected, gradient = mean(toy.params, jax.device_get(toy.teacher_params()))
    _, metrics = toy.step(toy.state(), toy.teacher_params(), toy.batch())
    assert metrics["loss"].compute() == pytest.approx(float(expected), rel=1e-5)
    norm = float(optax.tree.norm(gradient))
    assert metrics["grad_norm"].compute() == pytest.approx(norm, rel=1e-4)


def test_the_loss_falls(toy):
    teacher_params, state = toy.teacher_params(), toy.state()
    curve = []
    for _ in range(20):
        state, metrics = toy.step(state, teacher_params, toy.batch())
        curve.append(metrics["loss"].compute())
    assert curve[-1] < 0.7 * curve[0]


def test_the_teacher_has_a_forward_pass_and_no_backward_pass():
    student, teacher = models.build(STUDENT), models.build(TEACHER)
    optimizer = keep_gradient()
    params, teacher_params = random_params(student), random_params(teacher)
    state = start(params, optimizer)
    batch = jax.tree.map(jnp.asarray, packed_batch(4, 16, 120))
    distilled = train_step(student, optimizer, soft_targets(teacher))
    hard = train_step(student, optimizer)
    inputs = batch["tokens"], batch["segments"]
    forward = dot_products(teacher.logits, teacher_params, *inputs)
    assert len(forward) > 5
    assert sorted(dot_products(distilled, state, teacher_params, batch)) == sorted(
        dot_products(hard, state, {}, batch) + forward
    )


@pytest.mark.parametrize("is_distilled", [False, True])
def test_as_many_logits_are_held_as_asked_and_the_gradient_is_the_same(is_distilled):
    student, teacher = (
        models.build(dataclasses.replace(config, vocab_size=256))
        for config in (STUDENT, TEACHER)
    )
    optimizer = keep_gradient()
    teacher_params = random_params(teacher) if is_distilled else {}
    targets = soft_targets(teacher) if is_distilled else None
    state = start(random_params(student), optimizer)
    batch = jax.tree.map(jnp.asarray, packed_batch(4, 24, 256))
    gradients, held = [], []
    for size in (None, 8):
        step = train_step(student, optimizer, targets, chunk_size=size)
        jaxpr = jax.make_jaxpr(step)(state, teacher_params, batch).jaxpr
        shapes = {v.aval.shape for e in equations(jaxpr) for v in e.outvars}
        rows = {shape[0] for shape in shapes if shape[1:] == (256,)}
        held.append(rows - {STUDENT.width, TEACHER.width, 1})
        copy = jax.tree.map(jnp.copy, state)
        gradients.append(step(copy, teacher_params, batch)[0].opt_state)
    assert held == [{4 * 24}, {8}]
    assert_close(*gradients, rtol=1e-5)


def test_a_step_that_is_not_finite_is_skipped(toy):
    broken = toy.teacher_params(lambda x: jnp.nan * x)
    state, _ = toy.step(toy.state(), toy.teacher_params(), toy.batch())
    before = jax.device_get(state)
    state, metrics = toy.step(state, broken, toy.batch())
    assert_bitwise_equal(jax.device_get(state.params), before.params)
    assert_bitwise_equal(jax.device_get(state.opt_state), before.opt_state)
    assert int(state.step) == 2
    assert metrics["skipped"].compute() == 1.0
    state, metrics = toy.step(state, toy.teacher_params(), toy.batch())
    assert metrics["skipped"].compute() == 0.0
    assert np.isfinite(metrics["loss"].compute())


def test_a_gradient_that_is_not_finite_is_skipped_even_where_the_loss_is():
    model = models.build(SMALL)

    def hidden(params, tokens, segments):
        kink = jnp.sqrt(0.0 * params["final_norm"]["scale"])
        x = model.hidden(params, tokens, segments)
        return x + jnp.broadcast_to(kink, x.shape)

    optimizer = optax.sgd(1.0)
    step = train_step(model._replace(hidden=hidden), optimizer)
    params = random_params(model)
    batch = jax.tree.map(jnp.asarray, packed_batch(4, 12, 60))
    state, metrics = step(start(jax.tree.map(jnp.copy, params), optimizer), {}, batch)
    assert np.isfinite(metrics["loss"].compute())
    assert metrics["skipped"].compute() == 1.0
    assert_bitwise_equal(state.params, params)


def test_a_batch_of_padding_moves_nothing(toy):
    batch = toy.batch(change=np.zeros_like)
    state, metrics = toy.step(toy.state(), toy.teacher_params(), batch)
    values = {name: mean.compute() for name, mean in metrics.items()}
    assert values == dict.fromkeys(("loss", "hard", "soft", "grad_norm", "skipped"), 0)
    assert_bitwise_equal(jax.device_get(state.params), toy.params)


def test_alpha_and_temperature_follow_the_state_s_step():
    model = models.build(SMALL)
    optimizer, params = optax.set_to_zero(), random_params(model)
    ramps = ScheduleConfig(start=0.0, end=1.0), ScheduleConfig(start=1.0, end=5.0)
    step = train_step(model, optimizer, soft_targets(model, *ramps))
    batch = jax.tree.map(jnp.asarray, packed_batch(4, 12, 60))
    teacher_params = jax.tree.map(lambda x: 2.0 * x, params)
    state = start(params, optimizer)
    state = dataclasses.replace(state, step=state.step + 3)
    for alpha, temperature in ((0.3, 2.2), (0.4, 2.6), (0.5, 3.0)):
        state, metrics = step(state, teacher_params, batch)
        values = {name: mean.compute() for name, mean in metrics.items()}
        soft, hard = temperature**2 * values["soft"], values["hard"]
        expected = alpha * soft + (1 - alpha) * hard
        assert values["loss"] == pytest.approx(expected, rel=1e-5)


@functools.cache
def evaluation():
    """Returns an eval step, its models' parameters, and a batch."""
    student = models.build(ModelConfig(layers=1, width=32, heads=2, vocab_size=60))
    teacher = models.build(ModelConfig(layers=1, width=32, heads=2, vocab_size=58))
    params = jax.tree.map(lambda x: 1.5 * x, random_params(student))
    arguments = params, jax.tree.map(lambda x: 2.0 * x, params)
    batch = packed_batch(12, 12, 58)
    return eval_step(student, teacher), (student, teacher), arguments, batch


def test_held_out_metrics_are_their_definitions():
    step, built, params, batch = evaluation()
    found = evaluate(step, *params, [jax.tree.map(jnp.asarray, batch)])
    tokens, segments = batch["tokens"], batch["segments"]
    counted = (segments[:, :-1] == segments[:, 1:]) & (segments[:, :-1] > 0)
    labels = tokens[:, 1:][counted]
    logits = [
        np.asarray(m.logits(p, jnp.asarray(tokens), jnp.asarray(segments)))[:, :-1][
            counted
        ]
        for m, p in zip(built, params, strict=True)
    ]
    own = softmax(logits[0][:, :60])  # all of the student's ids
    p, q = softmax(logits[1][:, :58]), softmax(logits[0][:, :58])  # the common ones
    surprise = cross_entropy(logits[0][:, :60], labels)
    assert found["cross_entropy"] == pytest.approx(surprise.mean(), rel=1e-5)
    assert found["forward_kl"] == pytest.approx(kl(p, q).mean(), rel=1e-5)
    assert found["reverse_kl"] == pytest.approx(kl(q, p).mean(), rel=1e-5)
    agreement = (p.argmax(-1) == q.argmax(-1)).mean()
    assert 0.1 < agreement < 0.9
    assert found["agreement"] == pytest.approx(agreement)
    acceptance = np.minimum(p, q).sum(-1).mean()
    assert found["acceptance"] == pytest.approx(acceptance, rel=1e-5)

    confidence, correct = own.max(-1), own.argmax(-1) == labels
    bins = np.minimum((15 * confidence).astype(int), 14)
    rows = [
        (confidence[bins == b].mean(), correct[bins == b].mean(), (bins == b).sum())
        for b in np.unique(bins)
    ]
    assert len(rows) > 5
    assert [dataclasses.astuple(row) for row in found["calibration"]] == [
        pytest.approx(row, rel=1e-4) for row in rows
    ]
    entropy = -(p * np.log(p)).sum(-1)
    of_all = sum(b.forward_kl * b.count for b in found["by_entropy"]) / labels.size
    assert of_all == pytest.approx(found["forward_kl"], rel=1e-5)
    low = min(entropy)
    assert found["by_entropy"][0].low <= low < found["by_entropy"][0].high
    error = sum(n * abs(a - c) for c, a, n in rows) / labels.size
    assert found["calibration_error"] == pytest.approx(error, rel=1e-4)


def test_batches_add_up_and_rows_of_padding_do_not_count():
    step, _, params, batch = evaluation()
    whole = evaluate(step, *params, [jax.tree.map(jnp.asarray, batch)])
    cut = [batch[name][:7] for name in batch], [batch[name][7:] for name in batch]
    pieces = [
        {
            n: jnp.pad(x, ((0, 12 - len(x)), (0, 0)))
            for n, x in zip(batch, p, strict=True)
        }
        for p in cut
    ]
    summed = evaluate(step, *params, pieces)
    for name in ("calibration", "by_entropy"):
        for part, expected in zip(summed.pop(name), whole[name], strict=True):
            measured, wanted = map(dataclasses.astuple, (part, expected))
            assert measured == pytest.approx(wanted, rel=1e-5)
    assert summed == pytest.approx({name: whole[name] for name in summed}, rel=1e-5)


def test_without_a_teacher_only_the_student_is_measured():
    step, (student, _), params, batch = evaluation()
    batch = jax.tree.map(jnp.asarray, batch)
    alone = evaluate(eval_step(student), params[0], None, [batch])
    both = evaluate(step, *params, [batch])
    assert alone.keys() == {"cross_entropy", "calibration_error", "calibration"}
    assert alone["cross_entropy"] == pytest.approx(both["cross_entropy"], rel=1e-6)
