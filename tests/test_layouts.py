"""Published layouts of checkpoints, and every edit of a config.json.

What transformers makes of them is in `outcomes.json`; where it is installed, it is
asked again.
"""

import json
import pathlib
import random
import shutil

import interop
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kdjax import models
from kdjax.core.errors import UsageError

TESTS = pathlib.Path(__file__).parent
FIXTURES = TESTS / "fixtures"
OUTCOMES = json.loads((TESTS / "outcomes.json").read_text())
WEIGHTS = "model.safetensors"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
GONE = "gone"  # as a value: the key is absent


def as_of(fixture, tmp_path, changes=(), rename=None):
    """Returns a fixture's copy with a changed config and changed tensors."""
    directory = pathlib.Path(shutil.copytree(FIXTURES / fixture, tmp_path / "in"))
    values = json.loads((directory / "config.json").read_text()) | dict(changes)
    values = {key: value for key, value in values.items() if value != GONE}
    (directory / "config.json").write_text(json.dumps(values))
    if rename is not None:
        save_file(rename(load_file(directory / WEIGHTS)), directory / WEIGHTS)
    return directory


def refusal(directory):
    with pytest.raises(UsageError) as caught:
        models.load_pretrained(directory)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert "fetch the checkpoint" not in message
    return message


def assert_unchanged(directory, fixture):
    """Compares with transformers' logits for the fixture itself."""
    model, params = models.load_pretrained(directory)
    expected = load_file(FIXTURES / fixture / "expected.safetensors")
    real = expected["segments"] > 0
    logits = jax.jit(model.logits)(params, expected["tokens"], expected["segments"])
    found = np.asarray(logits)[..., : expected["logits"].shape[-1]]
    np.testing.assert_allclose(found[real], expected["logits"][real], atol=5e-5)


@pytest.mark.parametrize("name", OUTCOMES["edits"])
def test_every_key_is_read_refused_or_without_effect_as_in_transformers(name):
    """`make_outcomes.py` has compared each with transformers, also by generating."""
    values = json.loads((FIXTURES / name / "config.json").read_text())
    known = OUTCOMES["edits"][name]
    assert interop.readings(values, known["defaults"]) == known["read"]


NO_ROPE = {"rope_parameters": GONE, "dtype": GONE, "torch_dtype": "float32"}
PLAIN_ROPE = NO_ROPE | {"rope_theta": 10000.0, "rope_scaling": None}
IDS = {"transformers.js_config": {"dtype": "q4"}, "_name_or_path": "a/b", "x_note": 1}


def buffers(suffix, layers=2):
    """Returns a change that adds a buffer of an older version to every layer."""
    added = {suffix.format(i): np.ones((1, 1, 4, 4), np.float32) for i in range(layers)}
    return lambda tensors: tensors | added


def without(*names):
    return lambda tensors: {k: v for k, v in tensors.items() if k not in names}


# Each is the fixture's own model in another spelling.
SAME = {
    "llama 2": (
        "llama",
        PLAIN_ROPE | IDS | {"pretraining_tp": 2, "auto_map": {"AutoConfig": "c.C"}},
        buffers("model.layers.{}.self_attn.rotary_emb.inv_freq"),
    ),
    "llama 3.2": (
        "llama3",
        NO_ROPE
        | {"rope_theta": 100.0, "quantization_config": None}
        | {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
        None,
    ),
    "smollm2": (
        "llama",
        PLAIN_ROPE | {"is_llama_config": True, "rope_interleaved": False},
        None,
    ),
    "mistral 0.1": ("mistral", PLAIN_ROPE | {"use_sliding_window": False}, None),
    "qwen 2.5": ("qwen2", PLAIN_ROPE | {"layer_types": GONE, "head_dim": GONE}, None),
    "qwen 3": (
        "qwen3",
        PLAIN_ROPE | {"layer_types": GONE, "sliding_window": 9, "max_window_layers": 1},
        None,
    ),
    "gemma 1": (
        "gemma",
        PLAIN_ROPE | {"hidden_act": "gelu", "hidden_activation": None},
        None,
    ),
    "gemma 2": (
        "gemma2",
        NO_ROPE
        | {"rope_theta": 10000.0, "layer_types": GONE, "cache_implementation": "hybrid"}
        | {"hidden_act": "gelu_pytorch_tanh"},
        None,
    ),
    "gemma 3": (
        "gemma3",
        NO_ROPE
        | {"rope_theta": 1000.0, "rope_local_base_freq": 10.0, "layer_types": GONE}
        | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
        | {"sliding_window_pattern": 6},
        lambda tensors: tensors | {HEAD: tensors[EMBEDDING].copy()},
    ),
    "pythia": (
        "gpt_neox",
        NO_ROPE | {"rotary_pct": 0.25, "rotary_emb_base": 10000, "rope_scaling": None},
        lambda tensors: (
            buffers("gpt_neox.layers.{}.attention.bias")(tensors)
            | buffers("gpt_neox.layers.{}.attention.masked_bias")({})
            | buffers("gpt_neox.layers.{}.attention.rotary_emb.inv_freq")({})
        ),
    ),
    "pythia saved by transformers 5": (
        "gpt_neox",
        {},
        lambda t: without("embed_out.weight")(t) | {HEAD: t["embed_out.weight"]},
    ),
    "opt": (
        "opt",
        {"prefix": "</s>", "word_embed_proj_dim": 16, "dtype": GONE},
        lambda tensors: {k.removeprefix("model."): v for k, v in tensors.items()},
    ),
    "gpt2": (
        "gpt2",
        {"n_ctx": 64, "task_specific_params": {"text-generation": {"max_length": 50}}},
        lambda t: buffers("h.{}.attn.bias")(
            {k.removeprefix("transformer."): v for k, v in t.items()}
        ),
    ),
    "gpt2 in general words": (
        "gpt2",
        {"n_embd": GONE, "hidden_size": 16, "n_layer": GONE, "num_hidden_layers": 2},
        None,
    ),
    "architectures disagree": (
        "llama",
        {"architectures": ["LlamaForSequenceClassification"]},
        None,
    ),
    "a tied embedding under the head's name": (
        "qwen3",
        {},
        lambda t: without(EMBEDDING)(t) | {HEAD: t[EMBEDDING]},
    ),
    "float16 beside float32": (
        "llama",
        {"dtype": "float16"},
        lambda t: {
            k: v.astype(np.float16 if "norm" in k else v.dtype) for k, v in t.items()
        },
    ),
    "some names with the prefix": (
        "llama",
        {},
        lambda t: {k.replace("model.layers.1", "layers.1"): v for k, v in t.items()},
    ),
    "the prefix twice": (
        "llama",
        {},
        lambda t: {f"model.{name}": value for name, value in t.items()},
    ),
}
SAME_BUT_ROUNDED = {"float16 beside float32"}


@pytest.mark.parametrize("layout", sorted(SAME.keys() - SAME_BUT_ROUNDED))
def test_a_published_layout_is_the_model_that_it_was(tmp_path, layout):
    fixture, changes, rename = SAME[layout]
    assert_unchanged(as_of(fixture, tmp_path, changes, rename), fixture)


WRAPPERS = ["_orig_mod.", "module.", "module._orig_mod.", "base_model.model."]
WRAPPERS += ["pretrained_model.", "language_model."]


@pytest.mark.parametrize("fixture", ["llama", "qwen3", "gpt2", "gpt_neox", "opt"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_names_inside_wrappers_are_found(tmp_path, fixture, wrapper):
    def wrap(tensors):
        return {f"{wrapper}{name}": value for name, value in tensors.items()}

    _, wanted = models.load_pretrained(FIXTURES / fixture)
    _, found = models.load_pretrained(as_of(fixture, tmp_path, rename=wrap))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize(
    "wrapper",
    ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"],
)
def test_wrappers_of_layers_are_found(tmp_path, wrapper):
    def wrap(tensors):
        return {
            k.replace("layers.0.", f"layers.0.{wrapper}."): v
            for k, v in tensors.items()
        }

    _, wanted = models.load_pretrained(FIXTURES / "llama")
    _, found = models.load_pretrained(as_of("llama", tmp_path, rename=wrap))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


NOISE = np.ones((2, 16), np.float32)
ATTENTION = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        (without(HEAD), (f"'{HEAD}' is missing", "embedder", "tie_word_embeddings")),
        (
            lambda t: without(HEAD)(t) | {"score.weight": NOISE},
            (f"'{HEAD}' is missing", "a classifier has no head"),
        ),
        (
            lambda t: t | {"score.weight": NOISE},
            ("'score.weight' is the head of a classifier", "causal language model"),
        ),
        (lambda t: t | {"model." * 2000 + "x": NOISE}, ("has no place in a llama",)),
        (
            lambda t: t | {"v_head.summary.weight": NOISE},
            ("'v_head.summary.weight' is",),
        ),
        (
            lambda t: {f"student.{k}": v for k, v in t.items()},
            ("'student.model.embed_tokens.weight' is it", "remove 'student.' from"),
        ),
        (
            lambda t: t | {f"_orig_mod.{k}": v + 1 for k, v in t.items()},
            ("'_orig_mod.lm_head.weight' and 'lm_head.weight' have the same place",),
        ),
        (
            lambda t: t | {f"{ATTENTION}.lora_A.weight": NOISE},
            (f"'{ATTENTION}.lora_A.weight' is part of an adapter", "merge_and_unload"),
        ),
        (
            lambda t: (
                without(f"{ATTENTION}.weight")(t)
                | {f"base_model.model.{ATTENTION}.base_layer.weight": NOISE}
            ),
            ("base_layer.weight' is part of an adapter",),
        ),
        (
            without(EMBEDDING),
            (f"'{EMBEDDING}' is missing: either it was left out", "another model's"),
        ),
        (
            lambda t: t | {"vision_tower.patch.weight": NOISE},
            ("'vision_tower.patch.weight' has no place",),
        ),
        (
            lambda t: (
                t | {"model.norm.weight": t["model.norm.weight"].astype(np.float64)}
            ),
            ("'model.norm.weight' is stored as F64", "convert it to float32"),
        ),
    ],
)
def test_what_is_no_plain_checkpoint_is_refused_with_what_to_do(
    tmp_path, rename, words
):
    message = refusal(as_of("llama", tmp_path, rename=rename))
    for word in words:
        assert word in message


def test_names_that_lack_a_part_are_refused_with_the_part(tmp_path):
    def shorten(tensors):
        return {k.removeprefix("model.decoder."): v for k, v in tensors.items()}

    message = refusal(as_of("opt", tmp_path, rename=shorten))
    assert "put 'model.decoder.' before" in message


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_is_refused_with_the_line_that_merges_it(tmp_path, whole):
    directory = as_of("llama", tmp_path)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "a/base"}
    (directory / "adapter_config.json").write_text(json.dumps(adapter))
    if not whole:
        (directory / "config.json").unlink()
        (directory / WEIGHTS).rename(directory / "adapter_model.safetensors")
    message = refusal(directory)
    assert "an adapter of 'a/base'" in message
    assert f"from_pretrained('{directory}').merge_and_unload()" in message


@pytest.mark.parametrize(
    ("fixture", "changes", "words"),
    [
        ("llama", {"model_type": "smollm3"}, ("'smollm3' is no family",)),
        (
            "gemma3",
            {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}},
            ("'gemma3' is no family", "its text model is a gemma3_text"),
        ),
        ("qwen2", {"is_causal": False}, ("is_causal must be true",)),  # an embedder
        ("llama", {"partial_rotary_factor": 0.5}, ("partial_rotary_factor must be 1",)),
        ("llama", {"sliding_window": 4096}, ("sliding_window must be null",)),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ("rope_type",)),
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, ("rope_type",)),
        ("mistral", {"sliding_window": 0}, ("sliding_window must be null or more",)),
        ("mistral", {"layer_types": None, "sliding_window": None}, ("sliding_window",)),
        ("gemma2", {"sliding_window": None}, ("sliding_window must be a number",)),
        (
            "gemma2",
            {"sliding_window": None, "layer_types": ["full_attention"] * 2},
            ("sliding_window must be a number",),
        ),
        ("gemma3", {"attn_logit_softcapping": 50.0}, ("attn_logit_softcapping",)),
        ("gemma3", {"rope_parameters": {"rope_theta": 1e6}}, ("full_attention",)),
        ("qwen2", {"use_sliding_window": False}, ("use_sliding_window must be true",)),
        ("gpt2", {"hidden_size": 32}, ("n_embd and hidden_size disagree",)),
        ("opt", {"word_embed_proj_dim": 8}, ("word_embed_proj_dim disagree",)),
        (
            "llama",
            {"quantization_config": {"quant_method": "fp8"}},
            ("the weights are quantised",),
        ),
    ],
    ids=str,
)
def test_a_config_that_means_something_else_is_refused(
    tmp_path, fixture, changes, words
):
    message = refusal(as_of(fixture, tmp_path, changes))
    for word in words:
        assert word in message


def test_shards_of_any_name_are_one_checkpoint(tmp_path):
    directory = as_of("llama", tmp_path)
    tensors = load_file(directory / WEIGHTS)
    (directory / WEIGHTS).unlink()
    weight_map = {}
    for number, name in enumerate(sorted(tensors)):
        file = f"shard {number % 2}.safetensors"
        weight_map[name] = file
    for file in set(weight_map.values()):
        part = {k: tensors[k] for k, where in weight_map.items() if where == file}
        save_file(part, directory / file)  # without the metadata of transformers
    index = directory / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert_unchanged(directory, "llama")
    (directory / "shard 1.safetensors").unlink()
    message = refusal(directory)
    assert "shard 1.safetensors is missing" in message
    (directory / "shard 1.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
    )
    assert "git lfs pull" in refusal(directory)


def test_weights_under_another_name_are_refused_with_the_name(tmp_path):
    directory = as_of("llama", tmp_path)
    (directory / WEIGHTS).rename(directory / "consolidated.safetensors")
    assert "consolidated.safetensors" in refusal(directory)


class TestTransformers:
    """Runs where the `interop` extra is installed."""

    @pytest.fixture(autouse=True)
    def libraries(self):
        pytest.importorskip("torch")
        pytest.importorskip("transformers")

    @pytest.mark.parametrize("layout", SAME)
    def test_transformers_takes_the_layout_for_the_same_model(self, tmp_path, layout):
        directory = as_of(SAME[layout][0], tmp_path, *SAME[layout][1:])
        model, params = models.load_pretrained(directory, dtype="float32")
        ours = interop.our_logits(model, params, interop.rows())
        for theirs in interop.their_logits(directory, interop.rows()):
            assert interop.difference(ours, theirs) < interop.TOLERANCE

    def edits(self, name, tmp_path, count):
        """Compares some of the edited files of a fixture."""
        directory = as_of(name, tmp_path)
        values = json.loads((directory / "config.json").read_text())
        keys = OUTCOMES["edits"][name]["defaults"]
        edited = [e for _, e in interop.mutations(values, keys) if interop.reading(e)]
        known = {}
        for one in random.Random(0).sample(edited, count):
            interop.check_reading(directory, values, one, known)

    @pytest.mark.parametrize("name", OUTCOMES["edits"])
    def test_an_edited_config_means_the_same_in_transformers(self, tmp_path, name):
        self.edits(name, tmp_path, 3)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", OUTCOMES["edits"])
    def test_edited_configs_mean_the_same_in_transformers(self, tmp_path, name):
        self.edits(name, tmp_path, 40)
