"""No key of a GGUF file changes the function, or a text's ids, unnoticed."""

import functools
import json
import pathlib

import gguf
import numpy as np
import pytest
from etils import epath
from gguf_files import converted, metadata, write
from safetensors.numpy import load_file

from kdjax.checkpoints.gguf.model import read_architecture, read_gguf
from kdjax.checkpoints.hf.translate import canonical
from kdjax.core.errors import UsageError
from kdjax.formats.gguf import read_header
from kdjax.formats.safetensors import Stored
from kdjax.text import read_gguf_tokenizer

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt2")
PLACE = epath.Path("model.gguf")


def all_keys():
    """Returns every key that the package knows, with {arch} for the architecture."""
    found = set()

    def walk(group):
        for name, value in vars(group).items():
            if isinstance(value, type):
                walk(value)
            elif isinstance(value, str) and not name.startswith("__"):
                found.add(value)

    walk(gguf.Keys)
    return sorted(found)


KEYS = all_keys()
# llama.cpp reads these too; the package's list lacks them.
KEYS += [
    "{arch}.rope.scale_linear",
    "{arch}.attention.value_scale",
    "{arch}.hidden_activation",
    "{arch}.classifier.pooling_type",
    "{arch}.from.the.future",
]
# What neither the weights nor the shapes of a layer depend on in these architectures.
INERT = {
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
}
# Sizes, which messages name as the config does.
SIZES = ("head_count", "head_count_kv", "key_length", "embedding_length", "block_count")
ODD = (11, 0.25, "odd")


@pytest.fixture(scope="module")
def header_of(tmp_path_factory):
    """Returns the header of a file of an architecture, and what it holds."""
    folder = tmp_path_factory.mktemp("headers")

    @functools.cache
    def make(name):
        directory = FIXTURES / name
        values = json.loads((directory / "config.json").read_text())
        values |= {"use_sliding_window": False} if name == "qwen2" else {}
        stored = load_file(directory / "model.safetensors")
        path = folder / f"{name}.gguf"
        meta = metadata(values, name)
        meta = {key: item for key, item in meta.items() if "scaling" not in key}
        write(path, name, meta, converted(stored, values, name))
        header = read_header(epath.Path(path))
        return header, config_of(header)

    return make


def config_of(header, **changes):
    """Returns what the metadata say, with changes to them."""
    name, stored = header.metadata["general.architecture"], stored_of(header)
    meta = header.metadata | changes
    return canonical(read_architecture(name, meta, stored, "model.gguf")[1])


def stored_of(header):
    """Returns the tensors as the reader of the metadata sees them."""
    return {
        name: Stored(info.shape, np.dtype("float32"), info.kind.name, len)
        for name, info in header.tensors.items()
        if name in ("token_embd.weight", "output.weight")
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_key_is_used_or_refused_or_has_no_effect(header_of, name):
    header, plain = header_of(name)
    outcomes = {"used": set(), "refused": set(), "ignored": set()}
    foreign = ("general.", "split.", "tokenizer.", "clip.", "adapter.", "imatrix.")
    for key in KEYS:
        if key.startswith(foreign) and name != "llama":
            continue
        short = key.removeprefix("{arch}.")
        key = key.format(arch=name, id=0, name="tools", dense="dense_2")
        for value in ODD:
            try:
                is_used = config_of(header, **{key: value}) != plain
                outcomes["used" if is_used else "ignored"].add(short)
            except UsageError as error:
                assert "\n" not in str(error)
                assert key in str(error) or short.rpartition(".")[2] in SIZES
                outcomes["refused"].add(short)
    harmless = ("general.", "split.", "tokenizer.")  # or tested with what they concern
    unnoticed = {key for key in outcomes["ignored"] if not key.startswith(harmless)}
    assert unnoticed <= INERT
    assert len(outcomes["used"]) >= 4
    assert len(outcomes["refused"]) > 90


# Taken from files of llama.cpp's converters, of 2023 to 2026.
NOTHING = {
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.factor": 1.0,
    "rope.scaling.type": "none",
    "rope.scale_linear": 1.0,
    "rope.scaling.finetuned": True,
    "rope.dimension_sections": [0, 0, 0, 0],
    "attention.value_length": 8,
    "attention.key_length": 8,
    "attention.scale": 8**-0.5,
    "attention.head_count": [4, 4],
    "rope.dimension_count": 8,
    "logit_scale": 1.0,
    "vocab_size": 50,
    "use_parallel_residual": False,
    "tensor_data_layout": "Meta AI original pth",
}


@pytest.mark.parametrize("key", NOTHING)
def test_a_value_that_means_nothing_is_accepted(header_of, key):
    header, plain = header_of("llama")
    assert config_of(header, **{f"llama.{key}": NOTHING[key]}) == plain


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.causal", False),
        ("expert_count", 8),
        ("rope.scaling.type", "yarn"),
        ("rope.scaling.type", "longrope"),
        ("rope.scaling.factor", -2.0),
        ("rope.scaling.factor", float("nan")),
        ("rope.scaling.yarn_ext_factor", 1.0),
        ("rope.dimension_sections", [16, 24, 24, 0]),
        ("rope.dimension_count", 4),
        ("attention.value_length", 16),
        ("attention.scale", 0.5),
        ("attention.sliding_window_pattern", 6),
        ("attention.head_count", [2, 1]),
        ("vocab_size", 32000),
        ("tensor_data_layout", "reference"),
        ("pooling_type", 1),
    ],
)
def test_a_value_that_means_another_function_is_refused(header_of, key, value):
    header, _ = header_of("llama")
    with pytest.raises(UsageError, match=f"llama.{key} ") as caught:
        config_of(header, **{f"llama.{key}": value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "metadata",
    [
        {"rope.scaling.factor": 4.0},
        {"rope.scale_linear": 4.0},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        {"rope.scaling.factor": 4.0, "rope.scale_linear": 2.0},
    ],
)
def test_a_factor_means_what_llama_cpp_takes_it_for(header_of, metadata):
    header, plain = header_of("llama")
    found = config_of(header, **{f"llama.{k}": v for k, v in metadata.items()})
    assert (found.rope_scaling.kind, found.rope_scaling.factor) == ("linear", 4.0)
    named = {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}
    assert config_of(header, **named) == plain


def test_gemma_3_takes_its_windows_from_the_file(header_of):
    header, plain = header_of("gemma3")
    layers = plain.layers
    key, window = "gemma3.attention.sliding_window_pattern", max(plain.windows)
    odd = [layer % 2 == 1 for layer in range(layers)]
    for pattern, wanted in (
        (2, [window, 0] * layers),
        (1, [0] * layers),
        (odd, [0, window] * layers),
        ([True] * layers, [window] * layers),
        ([1] * layers, [window] * layers),
    ):
        assert config_of(header, **{key: pattern}).windows == tuple(wanted[:layers])
    rest = dict(header.metadata)
    del rest["gemma3.attention.sliding_window"]
    assert config_of(header._replace(metadata=rest)).windows == (0,) * layers
    for bad in (0, [True], ["x"] * layers, "all"):
        with pytest.raises(UsageError, match=key):
            config_of(header, **{key: bad})


@pytest.mark.parametrize(
    "key",
    ["adapter.type", "clip.has_vision_encoder", "imatrix.chunk_count", "phi3.rope"],
)
def test_a_file_of_another_kind_is_refused(header_of, key):
    header, _ = header_of("llama")
    with pytest.raises(UsageError, match=f"{key}' belongs to another kind"):
        config_of(header, **{key: 1})
    with pytest.raises(
        UsageError, match=r"general.type must be model; it is 'adapter'"
    ):
        config_of(header, **{"general.type": "adapter"})


@pytest.mark.parametrize("key", ["quantize.imatrix.file", "mradermacher.quantized_by"])
def test_a_note_of_who_made_the_file_is_accepted(header_of, key):
    header, plain = header_of("llama")
    assert config_of(header, **{key: "x"}) == plain


def test_frequencies_are_the_llamas_alone(header_of):
    header, _ = header_of("qwen2")
    tensors = dict(header.tensors)
    tensors["rope_freqs.weight"] = tensors["output_norm.weight"]
    _, config, stored = read_gguf(header._replace(tensors=tensors), PLACE)
    assert config.rope_scaling.kind == "none"
    assert "rope_freqs.weight" in stored  # which has no place there


TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "c", "d", "e", "f", "g", "h"],
    "tokenizer.ggml.token_type": [1] * 9,
    "tokenizer.ggml.merges": ["a b"],
}
ROLES = ("chat_template", "_token_id", "huggingface.json", "rwkv.world")


@pytest.mark.parametrize("key", [k for k in KEYS if k.startswith("tokenizer.")])
def test_a_tokenizer_s_key_is_used_or_refused_or_names_a_role(key):
    key = key.format(name="tools")
    if key in TOKENIZER:
        return
    spelled = read_gguf_tokenizer(TOKENIZER, PLACE)[0].to_str()
    for value in (11, "odd", [1, 2]):
        changed = TOKENIZER | {"tokenizer.ggml.bos_token_id": 1, key: value}
        try:
            found = read_gguf_tokenizer(changed, PLACE)[0].to_str()
        except UsageError as error:
            assert key in str(error)
        else:
            # A document ends with its token, whatever a prompt does.
            is_harmless = any(role in key for role in ROLES) or "add_eos" in key
            is_harmless |= key == "tokenizer.ggml.scores"  # SentencePiece's alone
            assert is_harmless or found != spelled, f"{key} is ignored"


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("add_sep_token", False, True),
        ("remove_extra_whitespaces", False, True),
        ("precompiled_charsmap", [], [1, 2]),
        ("add_space_prefix", False, True),
        ("suppress_tokens", [], [3]),
        ("normalizer.lowercase", False, True),
    ],
)
def test_what_changes_ids_must_be_off(key, good, bad):
    plain = read_gguf_tokenizer(TOKENIZER, PLACE)[0].to_str()
    name = f"tokenizer.ggml.{key}"
    assert read_gguf_tokenizer(TOKENIZER | {name: good}, PLACE)[0].to_str() == plain
    with pytest.raises(UsageError, match=name):
        read_gguf_tokenizer(TOKENIZER | {name: bad}, PLACE)
    with pytest.raises(UsageError, match=r"tokenizer.ggml.new' is a key that kdjax"):
        read_gguf_tokenizer(TOKENIZER | {"tokenizer.ggml.new": good}, PLACE)


def test_listed_merges_take_precedence_over_scores():
    tokens = ["<unk>", "a", "b", "c", "ab", "bc"]
    meta = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 1, 1, 1, 1, 1],
        "tokenizer.ggml.scores": [0.0, -9.0, -9.0, -9.0, -1.0, -2.0],
        "tokenizer.ggml.add_space_prefix": False,
    }
    assert read_gguf_tokenizer(meta, PLACE)[0].encode("abc").tokens == ["ab", "c"]
    meta["tokenizer.ggml.merges"] = ["b c", "a b"]
    assert read_gguf_tokenizer(meta, PLACE)[0].encode("abc").tokens == ["a", "bc"]
    assert np.array_equal(read_gguf_tokenizer(meta, PLACE)[0].encode("<unk>").ids, [0])
