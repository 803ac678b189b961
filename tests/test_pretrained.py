"""A checkpoint becomes the model it is in transformers, or one line says why not."""

import copy
import dataclasses
import functools
import json
import math
import pathlib
import resource
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from safetensors.numpy import load_file, save_file

from kdjax import models
from kdjax.checkpoints.hf import layouts
from kdjax.checkpoints.hf import load as pretrained
from kdjax.checkpoints.hf.families import FAMILIES
from kdjax.checkpoints.hf.translate import read_config
from kdjax.config import MeshConfig, RopeScalingConfig
from kdjax.core.errors import UsageError
from kdjax.parallel.sharding import make_mesh

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
NAMES = sorted(path.name for path in FIXTURES.iterdir())
WEIGHTS = "model.safetensors"

every_family = pytest.mark.parametrize("name", NAMES)


def edit_json(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v != "absent"}))


def edit_tensors(directory, change):
    """Rewrites the weights after `change` has worked on the dict of tensors."""
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS)


@pytest.fixture
def checkpoint(tmp_path):
    """Returns a fixture's copy, for a test to damage."""

    def copied(name="llama"):
        return pathlib.Path(shutil.copytree(FIXTURES / name, tmp_path / name))

    return copied


def refusal(directory, **options):
    with pytest.raises(UsageError) as caught:
        models.load_pretrained(directory, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def error(model, params, name):
    """Returns the largest difference to the logits of transformers."""
    expected = load_file(FIXTURES / name / "expected.safetensors")
    real = expected["segments"] > 0
    logits = jax.jit(model.logits)(params, expected["tokens"], expected["segments"])
    size = expected["logits"].shape[-1]
    return np.abs(np.asarray(logits)[..., :size] - expected["logits"])[real].max()


@every_family
def test_logits_are_those_of_transformers(name):
    """Beyond the window, behind padding and before it; measured: at most 1.2e-5."""
    assert error(*models.load_pretrained(FIXTURES / name), name) <= 5e-5


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mistral", {"windows": (6,)}),
        ("ministral", {"windows": (5, 5, 5)}),
        ("qwen2", {"windows": (5, 0)}),
        ("qwen3", {"norm_epsilon": 1e-2}),
        ("gemma", {"norm_offset": False}),
        ("gemma", {"activation": "gelu"}),
        ("gemma2", {"windows": (0, 5)}),
        ("gemma2", {"query_scalar": 8.0}),
        ("gemma2", {"attention_softcap": 4.0}),
        ("gemma2", {"logit_softcap": 9.9}),
        ("gemma2", {"scale_embeddings": False}),
        ("gemma2", {"activation": "gelu"}),
        ("gemma3", {"windows": (5, 5, 5, 5, 0, 5)}),
        ("gemma3", {"local_rope_theta": 1000.0}),
        ("gemma3", {"rope_theta": 10.0}),
        ("gemma3", {"rope_scaling": RopeScalingConfig()}),
        ("llama3", {"rope_scaling": RopeScalingConfig()}),
        ("llama_linear", {"rope_scaling": RopeScalingConfig("linear", 2.1)}),
        ("gpt_neox", {"rope_fraction": 0.5}),
        ("gpt_neox", {"parallel_residual": False}),
        ("opt", {"activation": "gelu"}),
    ],
    ids=str,
)
def test_the_comparison_sees_a_wrong_option(name, change):
    model, params = models.load_pretrained(FIXTURES / name)
    wrong = models.build(dataclasses.replace(model.config, **change))
    assert error(wrong, params, name) > 2e-4


def older(values):
    """Returns a config.json in the spelling of transformers 4."""
    values = copy.deepcopy(values) | {"torch_dtype": values["dtype"]}
    rope = values.pop("rope_parameters", None)
    pattern = values.pop("layer_types", None)
    if values["model_type"] == "ministral":  # it never had another spelling
        values["layer_types"] = pattern
    if values["model_type"] == "gemma3_text":
        values["sliding_window_pattern"] = values.pop("_sliding_window_pattern")
        values["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
        assert pattern
    if rope and values["model_type"] == "gpt_neox":
        values["rotary_emb_base"] = rope["rope_theta"]
        values["rotary_pct"] = rope["partial_rotary_factor"]
    elif rope:
        values["rope_theta"] = int(rope.pop("rope_theta"))
        if (kind := rope.pop("rope_type")) != "default":
            values["rope_scaling"] = {"type": kind, **rope}
    del values["dtype"]
    return values


@every_family
def test_older_configs_mean_the_same(name):
    values = json.loads((FIXTURES / name / "config.json").read_text())
    assert read_config(older(values), "old") == read_config(values, "new")


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 8, 1), (1, 4, 2)], ids=str)
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "opt", "gemma2"])
def test_on_a_mesh_the_same_bits_arrive(name, shape):
    _, plain = models.load_pretrained(FIXTURES / name)
    mesh = make_mesh(MeshConfig(*shape))
    _, sharded = models.load_pretrained(FIXTURES / name, mesh=mesh)
    kernel = sharded["layers"]["mlp"]["up"]["kernel"]
    assert tuple(kernel.sharding.spec) == (None, "fsdp", "tensor")
    jax.tree.map(np.testing.assert_array_equal, sharded, plain)


@pytest.mark.parametrize("shape", [None, (2, 2, 2), (1, 8, 1)], ids=str)
@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_one_layer_at_a_time_the_same_bits_arrive(monkeypatch, name, shape):
    """As on an accelerator, for which the host never holds several layers."""
    mesh = make_mesh(MeshConfig(*shape)) if shape else None
    _, plain = models.load_pretrained(FIXTURES / name, mesh=mesh)
    layers, assemble = set(), pretrained._assemble

    def counted(source, *rest):
        layers.add(len(source.stored))
        return assemble(source, *rest)

    monkeypatch.setattr(pretrained, "_assemble", counted)
    monkeypatch.setattr(pretrained, "_lies_on_host", lambda: False)
    _, params = models.load_pretrained(FIXTURES / name, mesh=mesh)
    assert layers == {1}
    jax.tree.map(np.testing.assert_array_equal, params, plain)
    for found, wanted in zip(*map(jax.tree.leaves, (params, plain)), strict=True):
        assert found.sharding.is_equivalent_to(wanted.sharding, found.ndim)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_parameters_that_share_memory_may_be_consumed(shape):
    """On a CPU devices that hold copies share what was read, and a step donates it."""
    mesh = make_mesh(MeshConfig(*shape))
    _, params = models.load_pretrained(FIXTURES / "llama", mesh=mesh)
    expected = jax.tree.map(lambda x: 3 * (3 * np.array(x) + 1) + 1, params)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(params):
        return jax.tree.map(lambda x: 3 * x + 1, params)

    found = step(step(params))
    for leaf, wanted in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        for shard in leaf.addressable_shards:
            np.testing.assert_allclose(shard.data, wanted[shard.index], rtol=1e-6)


def test_a_model_on_a_mesh_computes_what_it_computes_on_one_device():
    loaded = models.load_pretrained(FIXTURES / "gemma2", mesh=make_mesh(MeshConfig()))
    expected = load_file(FIXTURES / "gemma2" / "expected.safetensors")
    rows = {k: np.repeat(v, 8, axis=0) for k, v in expected.items()}
    logits = jax.jit(loaded[0].logits)(loaded[1], rows["tokens"], rows["segments"])
    real = rows["segments"] > 0
    found, wanted = np.asarray(logits)[..., :50][real], rows["logits"][real]
    np.testing.assert_allclose(found, wanted, atol=5e-5)


TWO = """
import sys
import jax, numpy
from kdjax.parallel.processes import join_processes
from kdjax.parallel.sharding import make_mesh
process = join_processes()
from kdjax import models
from kdjax.config import MeshConfig
from kdjax.core.errors import UsageError

sound, damaged, out = sys.argv[1:]
mesh = make_mesh(MeshConfig(data=1, fsdp=2))
model, params = models.load_pretrained(sound, mesh=mesh)
assert not params["embed"]["tokens"].is_fully_addressable
models.save_pretrained(out, model, params, tokenizer=None, card="")
pairs = (models.load_pretrained(path)[1] for path in (sound, out))
jax.tree.map(numpy.testing.assert_array_equal, *pairs)
try:
    models.load_pretrained(damaged, mesh=mesh)
except UsageError as error:
    print("refused:", error)
"""


def test_two_processes_load_save_and_refuse_together(checkpoint, tmp_path):
    """The number that is none lies in one process's half, and both must stop."""
    directory = checkpoint("gemma2")
    name = "model.layers.1.mlp.up_proj.weight"
    edit_tensors(directory, poison(name, np.nan))
    (tmp_path / "two.py").write_text(TWO)
    script = [tmp_path / "two.py", FIXTURES / "gemma2", directory, tmp_path / "out"]
    done = runs.run(*runs.TWO, *script)
    assert (done.stdout + done.stderr).count(f"refused: the tensor '{name}' holds") == 2


def read_part(layout, read, index, sizes):
    result = np.full([where.stop - where.start for where in index], np.nan)
    layout.read(read, index, sizes, result)
    return result


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_part_of_a_parameter_is_read_without_the_rest_of_its_tensor(family):
    letters = {"d": 6, "h": 4, "g": 2, "k": 8, "f": 10, "v": 12, "p": 5}
    rng = np.random.default_rng(0)
    for _, text in family.tensors.values():
        layout = layouts.parse(text)
        stored = rng.normal(size=layout.file_shape(letters))
        shape = [letters[letter] for letter in layout.letters]
        read = []

        def count(index, stored=stored, read=read):
            read.append(stored[index].size)
            return stored[index]

        whole = read_part(layout, count, tuple(slice(0, n) for n in shape), letters)
        part = tuple(slice(n // 4, n // 2 + 1) for n in shape)
        np.testing.assert_array_equal(
            read_part(layout, count, part, letters), whole[part]
        )
        if layout.letters != ("v", "d") and "k" not in layout.letters:
            assert read[1] == whole[part].size
        half = (*(slice(0, n) for n in shape[:-1]), slice(0, shape[-1] // 2))
        if layout.letters[-1] == "d":
            read_part(layout, count, half, letters)
            assert read[2] == whole[half].size
        written = np.zeros_like(stored)
        layout.write(written, whole, letters)
        np.testing.assert_array_equal(written[written != 0], stored[written != 0])
        assert (written != 0).sum() == whole.size


def test_a_shard_of_the_heads_reads_those_heads_only():
    letters = {"d": 6, "h": 4, "k": 8}
    for text, times in (("(h k) d -> d h k", 1), ("d (0 h k) -> d h k", 1)):
        layout, read = layouts.parse(text), []
        stored = np.zeros(layout.file_shape(letters))

        def count(index, stored=stored, read=read):
            read.append(stored[index].size)
            return stored[index]

        read_part(layout, count, (slice(0, 6), slice(1, 3), slice(0, 8)), letters)
        assert read == [times * 6 * 2 * 8]


def test_rows_beyond_the_vocabulary_are_zero():
    _, params = models.load_pretrained(FIXTURES / "llama")
    assert params["embed"]["tokens"].shape == (64, 16)
    assert (params["embed"]["tokens"][50:] == 0).all()
    assert (params["head"]["kernel"][:, 50:] == 0).all()


def as_bfloat16(tensors):
    for name, value in tensors.items():
        tensors[name] = value.astype(jnp.bfloat16)


def test_parameters_stay_as_they_are_stored_unless_told_otherwise(checkpoint):
    directory = checkpoint()
    edit_tensors(directory, as_bfloat16)
    for dtype, kind, computed in (
        (None, jnp.bfloat16, "bfloat16"),
        ("float32", jnp.float32, "float32"),
    ):
        model, params = models.load_pretrained(directory, dtype=dtype)
        assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(kind)}
        assert model.config.dtype == computed
    assert "'float16'" in refusal(directory, dtype="float16")


def split(directory, tensors, parts=3):
    """Writes the tensors as several files and an index."""
    (directory / WEIGHTS).unlink()
    weight_map = {}
    for number in range(parts):
        file = f"model-{number + 1:05}-of-{parts:05}.safetensors"
        names = sorted(tensors)[number::parts]
        save_file({name: tensors[name] for name in names}, directory / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / (WEIGHTS + ".index.json")).write_text(json.dumps(index))
    return weight_map


def test_several_files_are_one_checkpoint(checkpoint):
    _, whole = models.load_pretrained(FIXTURES / "llama")
    directory = checkpoint()
    split(directory, load_file(directory / WEIGHTS))
    _, params = models.load_pretrained(directory)
    jax.tree.map(np.testing.assert_array_equal, params, whole)


def test_one_file_counts_more_than_an_index_that_was_left_behind(checkpoint):
    directory = checkpoint()
    split(directory, load_file(FIXTURES / "llama" / WEIGHTS))
    for part in directory.glob("model-*.safetensors"):
        part.unlink()
    shutil.copy(FIXTURES / "llama" / WEIGHTS, directory)
    models.load_pretrained(directory)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_layers_of_several_precisions_take_the_widest(checkpoint, dtype):
    directory, narrow = checkpoint(), "model.layers.1.mlp.up_proj.weight"

    def halve(tensors):
        tensors[narrow] = tensors[narrow].astype(np.float16)

    edit_tensors(directory, halve)
    model, params = models.load_pretrained(directory, dtype=dtype)
    kernel = params["layers"]["mlp"]["up"]["kernel"]
    assert kernel.dtype == model.config.dtype == (dtype or "float32")
    stored = load_file(directory / WEIGHTS)
    for layer in range(2):
        wanted = stored[f"model.layers.{layer}.mlp.up_proj.weight"].T
        np.testing.assert_array_equal(kernel[layer], wanted.astype(kernel.dtype))


def test_a_base_of_rotations_may_be_beyond_integers(checkpoint):
    directory = checkpoint()
    edit_json(directory / "config.json", rope_parameters={"rope_theta": 3580165449.0})
    assert models.load_config(directory)[1].rope_theta == 3580165449.0


def test_files_and_index_that_disagree_are_refused(checkpoint):
    directory = checkpoint()
    weight_map = split(directory, load_file(directory / WEIGHTS))
    index = directory / (WEIGHTS + ".index.json")
    name = "model.norm.weight"
    lacking = {k: v for k, v in weight_map.items() if k != name}
    edit_json(index, weight_map=lacking)
    assert f"'{name}' is only in {directory}" in refusal(directory)
    edit_json(index, weight_map=weight_map | {"ghost": weight_map[name]})
    assert "'ghost' is only in the index" in refusal(directory)
    edit_json(index, weight_map=weight_map | {"ghost": "../../etc/passwd"})
    assert "'../../etc/passwd'" in refusal(directory)
    edit_json(index, weight_map=weight_map | {"ghost": "gone.safetensors"})
    assert "gone.safetensors" in refusal(directory)


def test_older_names_of_gpt2_are_understood(checkpoint):
    """Files of the base model lack the prefix and carry the causal mask."""
    _, whole = models.load_pretrained(FIXTURES / "gpt2")

    def rename(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = np.ones((1, 1, 8, 8), np.uint8)

    directory = checkpoint("gpt2")
    edit_tensors(directory, rename)
    _, params = models.load_pretrained(directory)
    jax.tree.map(np.testing.assert_array_equal, params, whole)


def test_a_stored_copy_of_a_tied_head_is_accepted_and_another_head_is_not(checkpoint):
    directory = checkpoint("qwen3")

    def add(tensors, noise=0.0):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + noise

    edit_tensors(directory, add)
    models.load_pretrained(directory)
    edit_tensors(directory, lambda tensors: add(tensors, np.float32(1)))
    assert "'lm_head.weight' differs" in refusal(directory)


def poison(name, value):
    def change(tensors):
        tensors[name].reshape(-1)[-1] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.norm.weight"), ("'model.norm.weight' is missing",)),
        (
            lambda t: t.pop("model.layers.1.mlp.up_proj.weight"),
            ("'model.layers.1.mlp.up_proj.weight' is missing",),
        ),
        (
            lambda t: t.update(extra=np.zeros(3, np.float32)),
            ("'extra' has no place in a llama model",),
        ),
        (
            lambda t: t.update({"model.norm.weight": np.zeros(17, np.float32)}),
            ("'model.norm.weight' has the shape (17,)", "(16,)"),
        ),
        (
            lambda t: t.update(
                {"model.layers.0.mlp.up_proj.weight": np.zeros((16, 24), np.float32)}
            ),
            ("mlp.up_proj.weight' has the shape (16, 24)", "(24, 16)"),
        ),
        (
            lambda t: t.update({"model.norm.weight": np.zeros(16, np.int8)}),
            ("'model.norm.weight' is stored as I8",),
        ),
        (poison("model.norm.weight", np.nan), ("'model.norm.weight' holds",)),
        (
            poison("model.layers.1.self_attn.k_proj.weight", np.inf),
            ("'model.layers.1.self_attn.k_proj.weight' holds infinities",),
        ),
    ],
    ids=lambda value: "" if callable(value) else value[0],
)
def test_a_wrong_tensor_is_refused_by_name(checkpoint, change, words):
    directory = checkpoint()
    edit_tensors(directory, change)
    message = refusal(directory)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "bert"}, ("'bert'", "llama, mistral", "gpt_neox")),
        ({"model_type": ["llama"]}, ("model_type",)),
        ({"hidden_size": "absent"}, ("hidden_size must be given",)),
        ({"hidden_size": "16"}, ("hidden_size must be a whole number; it is '16'",)),
        ({"hidden_size": True}, ("hidden_size", "True")),
        ({"hidden_size": -16}, ("hidden_size", "-16")),
        ({"hidden_size": 10**30}, ("hidden_size is out of range",)),
        ({"hidden_size": 32}, ("has the shape", "32")),
        ({"num_hidden_layers": 0}, ("num_hidden_layers",)),
        ({"num_hidden_layers": 3}, ("'model.layers.2.", "missing")),
        ({"num_hidden_layers": 1}, ("'model.layers.1.", "no place")),
        ({"num_hidden_layers": 4000}, ("4000 layers",)),
        ({"num_hidden_layers": 10**12}, ("out of range",)),
        ({"vocab_size": 10**9}, ("at most 4,194,304",)),
        ({"num_key_value_heads": 3}, ("kv_heads = 3",)),
        ({"rms_norm_eps": math.nan}, ("rms_norm_eps",)),
        ({"rms_norm_eps": 0}, ("rms_norm_eps must be more than 0",)),
        ({"hidden_act": "mish"}, ("hidden_act must be one of silu", "'mish'")),
        ({"tie_word_embeddings": "no"}, ("true or false; it is 'no'",)),
        ({"rope_parameters": 3}, ("rope_parameters must be an object; it is 3",)),
        ({"rope_parameters": {"rope_type": "yarn"}}, ("rope_type", "'yarn'")),
        ({"quantization_config": {"bits": 4}}, ("quantised",)),
    ],
    ids=str,
)
def test_a_wrong_config_is_refused_with_its_key(checkpoint, changes, words):
    directory = checkpoint()
    edit_json(directory / "config.json", **changes)
    message = refusal(directory)
    for word in words:
        assert word in message


def test_a_pattern_of_thousands_of_layers_takes_no_time(checkpoint):
    directory = checkpoint("gemma2")
    types = ["full_attention"] * 4095 + ["sliding_attention"]
    changes = {"num_hidden_layers": 4096, "layer_types": types}
    edit_json(directory / "config.json", **changes)
    begin = time.process_time()
    assert "4096 layers" in refusal(directory)
    assert time.process_time() - begin < 5


def test_options_that_kdjax_does_not_compute_are_refused(checkpoint):
    for name, changes in (
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("opt", {"do_layer_norm_before": False}),
        ("gemma", {"hidden_act": "silu"}),
        ("gemma2", {"use_bidirectional_attention": True}),
        ("gemma2", {"layer_types": ["full_attention", "linear_attention"]}),
        ("gemma2", {"layer_types": ["full_attention"]}),
    ):
        directory = checkpoint(name)
        edit_json(directory / "config.json", **changes)
        assert next(iter(changes)) in refusal(directory)
        shutil.rmtree(directory)


def test_what_is_no_checkpoint_is_refused(tmp_path, checkpoint):
    assert "path=nowhere does not exist" in refusal(pathlib.Path("nowhere"))
    assert "config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "JSON object" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{" * 100_000)
    assert "cannot be read" in refusal(tmp_path)
    directory = checkpoint()
    (directory / WEIGHTS).rename(directory / "pytorch_model.bin")
    message = refusal(directory)
    assert "is a pickle" in message
    assert "save_pretrained" in message


def test_a_truncated_file_is_refused_with_the_first_tensor_it_lacks(checkpoint):
    directory = checkpoint()
    content = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(content[:-10])
    header, _ = parts(content)
    last = max(header, key=lambda name: header[name]["data_offsets"])
    assert f"'{last}' ends past" in refusal(directory)
    (directory / WEIGHTS).write_bytes(content + b"\0")
    assert "cannot be read" in refusal(directory)
    for size in (0, 7, 8, 50):
        (directory / WEIGHTS).write_bytes(content[:size])
        assert "cannot be read" in refusal(directory)


def parts(content):
    """Returns a file's header, without metadata, and its data."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]
    return header, content[8 + length :]


def joined(header, data):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


STRANGE = [None, -1, 0, 1, 2**31, 2**63, 2**70, 1.5, "F32", "BF16", "I64", "", [], {}]
STRANGE += [[-1], [2**62, 2**62], [0, 2**40], [16, 16], [[]], "model.norm.weight", True]


def mutate(rng, header, data):
    """Returns the bytes of a file that differs from a sound one somewhere."""
    header = json.loads(json.dumps(header))
    names = sorted(header)
    entry = header[names[rng.integers(len(names))]]
    kind = rng.integers(8)
    if kind == 0:
        entry["shape"] = STRANGE[rng.integers(len(STRANGE))]
    elif kind == 1:
        entry["data_offsets"] = STRANGE[rng.integers(len(STRANGE))]
    elif kind == 2:
        entry["dtype"] = STRANGE[rng.integers(len(STRANGE))]
    elif kind == 3:
        entry["data_offsets"][rng.integers(2)] += int(rng.integers(-(2**12), 2**12))
    elif kind == 4:
        header[str(STRANGE[rng.integers(len(STRANGE))])] = entry
    file = joined(header, data)
    length = len(file) - len(data)
    if kind == 5:
        file = file[: rng.integers(len(file))]
    elif kind == 6:
        file = bytes(rng.integers(0, 256, 8, dtype=np.uint8)) + file[8:]
    elif kind == 7:
        damaged = bytearray(file)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(8, length)] = rng.integers(256)
        file = bytes(damaged)
    return file


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_files_are_all_refused_or_sound(checkpoint, count):
    directory = checkpoint()
    content = (directory / WEIGHTS).read_bytes()
    header, data = parts(content)
    model, _ = models.load_pretrained(directory)
    sizes = [
        x.shape for x in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng, refused = np.random.default_rng(0), 0
    for _ in range(count):
        (directory / WEIGHTS).write_bytes(mutate(rng, header, data))
        try:
            _, params = models.load_pretrained(directory)
        except UsageError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert [x.shape for x in jax.tree.leaves(params)] == sizes
    assert refused > 0.85 * count
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000  # kilobytes


@pytest.mark.parametrize("count", [50, pytest.param(250, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["llama3", "gemma3"])
def test_damaged_configs_are_all_refused_or_sound(checkpoint, name, count):
    directory = checkpoint(name)
    values = json.loads((directory / "config.json").read_text())
    rng, refused = np.random.default_rng(0), 0
    for _ in range(count):
        damaged = json.loads(json.dumps(values))
        place = damaged
        for _ in range(rng.integers(3)):
            nested = [value for value in place.values() if isinstance(value, dict)]
            place = nested[rng.integers(len(nested))] if nested else place
        key = sorted(place)[rng.integers(len(place))]
        place[key] = STRANGE[rng.integers(len(STRANGE))]
        (directory / "config.json").write_text(json.dumps(damaged))
        try:
            models.load_pretrained(directory)
        except UsageError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 0.3 * count


def test_every_family_has_a_checkpoint_here():
    loaded = {models.load_config(FIXTURES / name)[0].name for name in NAMES}
    assert loaded == FAMILIES.keys()


def test_no_fixture_is_large():
    assert max(p.stat().st_size for p in FIXTURES.rglob("*")) < 100_000
