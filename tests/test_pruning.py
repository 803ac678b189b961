"""What is cut out of a teacher is its function without what does not matter."""

import dataclasses
import functools
import importlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import FAMILIES, packed_batch, random_params

from kdjax import models
from kdjax.checkpoints.hf.translate import canonical
from kdjax.config import MeshConfig, ModelConfig, StudentConfig
from kdjax.config.student_rules import student_model
from kdjax.core.errors import UsageError
from kdjax.models.pruning import prune
from kdjax.models.pruning.importance import measure
from kdjax.models.transformer import attention, decoder, layers
from kdjax.parallel.sharding import BATCH_AXES, make_mesh, make_placement, shardings

families = pytest.mark.parametrize("name", FAMILIES)
# Each compiles for seconds; between them they have every kind of dimension.
some_families = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("gpt2", "gemma2") else pytest.mark.slow)
        for name in FAMILIES
    ],
)
BATCH = {k: jnp.array(v) for k, v in packed_batch(8, 16, 50).items()}
WRITERS = ("attention/out", "mlp/down")
SIZES = {"layers": 0, "width": 0, "heads": 0}


def teacher_of(name, **changes):
    """Returns a teacher deep enough to be cut, and its parameters."""
    config = dataclasses.replace(FAMILIES[name], **{"layers": 4} | changes)
    return config, random_params(models.build(config))


def inherit(teacher, init="every_kth", layer_map=(), **changes):
    wanted = ModelConfig(**SIZES | changes)
    student = StudentConfig(init=init, layer_map=layer_map, model=wanted)
    return student_model(student, teacher)


def cut(teacher, params, init="every_kth", **changes):
    """Returns student, its parameters and what it kept, as a run would make them."""
    student = inherit(teacher, init, **changes)
    importance = measure(teacher, params, [BATCH])
    parts = prune.choose(teacher, student, init, importance)
    return *prune.prune(teacher, params, student, parts), parts


def logits(config, params):
    model = models.build(config)
    return jax.jit(model.logits)(params, BATCH["tokens"], BATCH["segments"])


def edit(params, path, change):
    """Returns the parameters with one of them changed, if there is such a one."""
    name, *rest = path.split("/")
    if name not in params:
        return params
    inner = edit(params[name], "/".join(rest), change) if rest else change(params[name])
    return {**params, name: inner}


@families
def test_a_cut_that_keeps_everything_is_the_identity(name):
    teacher, params = teacher_of(name)
    student = inherit(teacher)
    parts = prune.choose(teacher, student, "every_kth")
    student, same = prune.prune(teacher, params, student, parts)
    assert canonical(student) == canonical(teacher)
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_a_cut_shares_no_memory_with_the_teacher():
    """The student's state is donated to its first step."""
    teacher, params = teacher_of("llama")
    for place in (None, jax.tree.map(lambda x: x.sharding, params)):
        student = inherit(teacher)
        parts = prune.choose(teacher, student, "every_kth")
        _, same = prune.prune(teacher, params, student, parts, shardings=place)
        jax.tree.map(lambda x: x.delete(), same)
        assert np.isfinite(np.asarray(params["embed"]["tokens"])).all()
        assert not any(x.is_deleted() for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("init", "total", "count", "kept"),
    [
        ("every_kth", 12, 6, [0, 2, 4, 7, 9, 11]),
        ("every_kth", 6, 3, [0, 2, 5]),
        ("every_kth", 5, 1, [0]),
        ("first_last", 12, 5, [0, 1, 2, 10, 11]),
        ("first_last", 12, 1, [0]),
        ((3, 3, 0), 4, 3, [3, 3, 0]),
    ],
)
def test_layers_are_chosen_as_their_rule_says(init, total, count, kept):
    teacher, student = (ModelConfig(layers=n) for n in (total, count))
    assert prune.choose(teacher, student, init).layers == kept


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_a_layer_map_takes_these_layers_and_their_windows(name):
    windows = (3, 5, 0, 4) if name == "gemma3" else (0,)
    teacher, params = teacher_of(name, windows=windows)
    student = inherit(teacher, "random", layer_map=(2, 0, 3))
    parts = prune.choose(teacher, student, (2, 0, 3))
    student, taken = prune.prune(teacher, params, student, parts)
    if name == "gemma3":
        assert student.layer_windows == (0, 3, 4)
    expected = jax.tree.map(lambda x: x[jnp.array([2, 0, 3])], params["layers"])
    jax.tree.map(np.testing.assert_array_equal, taken["layers"], expected)


def test_block_influence_is_one_minus_the_cosine_around_each_block():
    config, params = teacher_of("mistral")
    view = attention.make_view(config, BATCH["segments"], models.Placement())
    positions = attention.segment_positions(BATCH["segments"])
    x = decoder.Embed(config, models.Placement()).apply(
        {"params": params["embed"]}, BATCH["tokens"], positions
    )
    real, expected = np.asarray(BATCH["segments"]) > 0, []
    for layer in range(config.layers):
        weights = jax.tree.map(lambda x, layer=layer: x[layer], params["layers"])
        block = layers.Block(config, models.Placement())
        y, _ = block.apply({"params": weights}, x, jnp.array(3), view)
        a, b = (np.asarray(z, np.float64)[real] for z in (x, y))
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        expected.append(1 - ((a * b).sum(-1) / norms).mean())
        x = y
    halves = [{k: v[i::2] for k, v in BATCH.items()} for i in range(2)]
    found = measure(config, params, halves).layers
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@some_families
def test_what_is_dead_goes_and_the_function_stays(name):
    """Identity blocks, FFN channels, heads and residual channels, all at once."""
    teacher, params = teacher_of(name, norm_epsilon=1e-12, windows=(3, 0, 5, 4))
    rng, row = np.random.default_rng(0), np.arange(4)[:, None]
    blocks = jnp.array([0, 2])
    ffn = np.stack([rng.permutation(teacher.width_of_ffn)[:8] for _ in row])
    queries = teacher.heads // teacher.key_value_heads
    size = queries if teacher.key_value_heads > 1 else 1  # heads that go together
    first = rng.integers(0, teacher.heads // size, (4, 1)) * size
    heads = first + np.arange(size)
    width = rng.permutation(32)[:8]
    alive = np.setdiff1d(np.arange(32), width)

    def write_nothing(x):
        if teacher.norm == "layernorm":  # without them its mean must be the same: 0
            x = x - x[..., alive].mean(-1, keepdims=True)
        return x.at[..., width].set(0)

    written = [f"layers/{x}/{y}" for x in WRITERS for y in ("kernel", "bias")]
    for path in ("embed/tokens", "embed/positions", *written):
        params = edit(params, path, write_nothing)
    for path in written:
        params = edit(params, path, lambda x: x.at[blocks].set(0))
    for path in ("layers/attention_norm", "layers/mlp_norm", "final_norm"):
        # What a layernorm gives to a dead channel is its bias.
        params = edit(params, f"{path}/bias", lambda x: x.at[..., width].set(0))
    kill = lambda x: x.at[row, heads].set(0)  # noqa: E731
    params = edit(params, "layers/attention/out/kernel", kill)
    unread, unwritten = ffn[:, :4], ffn[:, 4:]
    kill = lambda x: x.at[row, unread].set(0)  # noqa: E731
    params = edit(params, "layers/mlp/down/kernel", kill)
    kill = lambda x: x.at[row, ..., unwritten].set(0)  # noqa: E731
    for part in ("kernel", "bias"):
        params = edit(params, f"layers/mlp/up/{part}", kill)

    sizes = {"heads": teacher.heads - size, "ffn_width": teacher.width_of_ffn - 8}
    if size != queries:
        sizes["kv_heads"] = 1  # one for all, so that queries go alone
    student, kept, parts = cut(
        teacher, params, "importance", layers=2, width=24, **sizes
    )
    assert parts.layers == [1, 3]
    assert student.layer_windows == (0, 4)
    assert parts.width == alive.tolist()
    assert student.width_of_head == teacher.width_of_head
    for layer, found, channels in zip(
        parts.layers, parts.heads, parts.ffn, strict=True
    ):
        assert not set(found) & set(heads[layer])
        assert not set(channels) & set(ffn[layer])
    model = models.build(student)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, kept) == jax.tree.map(jnp.shape, shapes)
    real = np.asarray(BATCH["segments"]) > 0
    expected, found = (
        np.asarray(logits(*pair))[real][:, :50]
        for pair in ((teacher, params), (student, kept))
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())
    assert expected.std() > 0.01


def test_the_channels_that_stay_matter_more_than_those_that_go():
    teacher, params = teacher_of("llama")
    spread = np.exp(np.random.default_rng(0).normal(size=(4, 48, 1)))
    params = edit(params, "layers/mlp/down/kernel", lambda x: x * jnp.float32(spread))
    importance = measure(teacher, params, [BATCH])
    student = inherit(teacher, ffn_width=24)
    expected, errors = logits(teacher, params)[..., :50], []
    for scores in (importance, importance._replace(ffn=-importance.ffn)):
        parts = prune.choose(teacher, student, "every_kth", scores)
        found = logits(*prune.prune(teacher, params, student, parts))[..., :50]
        errors.append(float(jnp.abs(found - expected).mean()))
    assert errors[0] < 0.5 * errors[1]


def test_padding_says_nothing_about_importance():
    teacher, params = teacher_of("qwen3")
    changed = jnp.where(BATCH["segments"] > 0, BATCH["tokens"], 49)
    found = measure(teacher, params, [BATCH])
    same = measure(teacher, params, [{**BATCH, "tokens": changed}])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, same)
    empty = {k: jnp.zeros_like(v) for k, v in BATCH.items()}
    with pytest.raises(ValueError, match="no token"):
        measure(teacher, params, [empty])


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_on_a_mesh_the_cut_is_the_same(name):
    teacher, params = teacher_of(name)
    sizes = {"layers": 2, "width": 24, "ffn_width": 32}
    student, plain, parts = cut(teacher, params, "importance", **sizes)
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    placed = jax.device_put(params, shardings(params, mesh))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(BATCH_AXES))
    batch = jax.device_put(BATCH, rows)
    importance = measure(teacher, placed, [batch], placement=make_placement(mesh))
    again = prune.choose(teacher, inherit(teacher, **sizes), "importance", importance)
    assert again._replace(gains=None) == parts._replace(gains=None)
    where = shardings(plain, mesh)
    _, found = prune.prune(teacher, placed, student, parts, shardings=where)
    jax.tree.map(np.testing.assert_array_equal, found, plain)
    assert jax.tree.map(lambda x: x.sharding, found) == where


def test_bfloat16_teachers_give_float32_students():
    teacher, params = teacher_of("llama")
    rough = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    _, kept, _ = cut(teacher, rough, layers=2, width=24)
    assert {x.dtype for x in jax.tree.leaves(kept)} == {jnp.dtype(jnp.float32)}


def test_what_is_kept_survives_the_way_through_json():
    teacher, params = teacher_of("gemma2")
    *_, parts = cut(teacher, params, "importance", layers=3, width=24, ffn_width=16)
    assert prune.Parts(**json.loads(json.dumps(parts._asdict()))) == parts


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_a_cut_student_is_exported_and_loaded_again(tmp_path, name):
    teacher, params = teacher_of(name)
    sizes = {"layers": 3, "ffn_width": 20}
    if name != "gpt2":  # which has no key for the width of a head
        sizes |= {"width": 28}
    student, kept, _ = cut(teacher, params, "importance", **sizes)
    path = tmp_path / "student"
    models.save_pretrained(
        path, models.build(student), kept, tokenizer=None, card="# A student\n"
    )
    again, same = models.load_pretrained(path)
    assert canonical(again.config) == canonical(student)
    np.testing.assert_array_equal(
        logits(again.config, same)[..., :50], logits(student, kept)[..., :50]
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": 5}, ("layers = 5", "has 4", "1 to 4")),
        ({"width": 33}, ("width = 33", "has 32")),
        ({"ffn_width": 49}, ("ffn_width = 49", "has 48")),
        ({"ffn_width": -1}, ("ffn_width = -1",)),
        ({"heads": 5}, ("heads = 5", "has 4")),
        ({"heads": 3}, ("heads = 3", "kv_heads = 1", "2 query heads")),
        ({"heads": 4, "kv_heads": 1}, ("heads = 4", "kv_heads = 1", "2 query heads")),
        ({"kv_heads": 4}, ("kv_heads = 4", "has 2")),
        ({"head_width": 4}, ("head_width = 4", "has 8")),
        ({"norm": "layernorm"}, ("norm = 'layernorm'", "'rmsnorm'")),
        ({"tie_embeddings": True, "vocab_size": 51}, ("vocab_size = 51", "has 50")),
        ({"windows": (3,)}, ("windows = (3,)", "(0,)")),
    ],
    ids=str,
)
def test_what_is_no_part_of_the_teacher_is_refused_in_one_line(changes, words):
    teacher = dataclasses.replace(FAMILIES["llama"], layers=4)
    with pytest.raises(UsageError) as caught:
        inherit(teacher, **changes)
    message = str(caught.value)
    assert "\n" not in message
    for word in (f"config.student.model.{words[0]}", *words):
        assert word in message


def test_a_student_has_what_it_does_not_say_from_its_teacher():
    teacher = dataclasses.replace(FAMILIES["gemma2"], layers=4, norm_epsilon=0.1)
    student = inherit(teacher, layers=3, heads=2, width=24, dtype="bfloat16")
    assert (student.kv_heads, student.width_of_head, student.width_of_ffn) == (
        1,
        16,
        48,
    )
    assert student.attention_softcap == 5 and student.norm_epsilon == 0.1
    assert student.dtype == "bfloat16" and student.scale_embeddings
    random = inherit(teacher, "random", layers=1, heads=8)
    assert random == ModelConfig(layers=1, width=32, heads=8)


@pytest.mark.parametrize(
    ("layer_map", "layers", "word"),
    [((0, 4), 0, "layer 4"), ((0, -1), 0, "layer -1"), ((0, 1), 3, "model.layers = 3")],
)
def test_a_wrong_layer_map_is_refused_in_one_line(layer_map, layers, word):
    teacher = dataclasses.replace(FAMILIES["llama"], layers=4)
    with pytest.raises(UsageError, match=rf"student\.layer_map.*{word}"):
        inherit(teacher, "random", layer_map=layer_map, layers=layers)


@pytest.mark.parametrize("name", ["surgery", "importance"])
def test_former_modules_work_and_say_where_they_went(name):
    sys.modules.pop(f"kdjax.models.{name}", None)
    with pytest.warns(DeprecationWarning, match=r"is now kdjax\.models\.pruning"):
        former = importlib.import_module(f"kdjax.models.{name}")
    if name == "surgery":
        assert former.cut is prune.prune
    else:
        assert former.measure is measure
