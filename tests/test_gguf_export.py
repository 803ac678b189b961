"""A GGUF file of ours is what llama.cpp's converter would write of the same model."""

import dataclasses
import json
import os
import pathlib

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from etils import epath
from gguf_files import converted, metadata, sentence_piece
from safetensors.numpy import load_file
from tokenizers import AddedToken, normalizers, pre_tokenizers, processors
from toys import random_params

from kdjax import models
from kdjax.checkpoints.gguf import save
from kdjax.checkpoints.hf.translate import canonical
from kdjax.config import ModelConfig, RopeScalingConfig, TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.formats.gguf import read_header
from kdjax.text import gguf_tokenizer_metadata, read_gguf_tokenizer, same_ids
from kdjax.text.chat import Chat
from kdjax.text.tokenizer import TokenizerFile, load_tokenizer, train_tokenizer

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
END = "<|endoftext|>"
# Fixture: the changes after which GGUF can express it, and its name there.
CASES = {
    "llama": ({}, "llama"),
    "llama3": ({}, "llama"),
    "llama_linear": ({}, "llama"),
    "smollm2": ({}, "llama"),
    "mistral": ({}, "llama"),
    "qwen2": ({"windows": (0,)}, "qwen2"),
    "qwen3": ({}, "qwen3"),
    "gemma": ({}, "gemma"),
    "gemma2": ({"query_scalar": 8.0}, "gemma2"),
    "gemma3": ({"query_scalar": 8.0}, "gemma3"),
    "gpt2": ({}, "gpt2"),
}
HARD = [
    "  two  spaces",
    "\n\n\t x",
    "🤗 naïve 日本 ",
    "12345 6 789",
    f"{END}a{END} b",
    "x's \u200b it'll IT'LL",
    "\r\n  \r\n",
    "e\u0301 ½² \x00",
]
GPT2 = {
    "positions": "learned",
    "norm": "layernorm",
    "mlp": "plain",
    "activation": "gelu_tanh",
    "kv_heads": 0,
    "max_length": 40,
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
}
STUDENT = ModelConfig(layers=2, width=64, heads=4, kv_heads=2, vocab_size=340)


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["the theory of the thing", "das übliche Maß 12345", "def f(a):\n    a"]
    return train_tokenizer(texts * 20, TokenizerConfig(vocab_size=340))


def fixture(name, **changes):
    """Returns a fixture's model and parameters, changed so that GGUF can hold it."""
    model, params = models.load_pretrained(FIXTURES / name)
    config = dataclasses.replace(model.config, **CASES[name][0], **changes)
    return models.build(config), params


def student(**changes):
    model = models.build(dataclasses.replace(STUDENT, **changes))
    return model, random_params(model)


def written(path, pair, tokenizer=None, **options):
    models.save_gguf(path, *pair, tokenizer=tokenizer, **options)
    return path


def refusal(path, pair, tokenizer=None, **options):
    before = sorted(path.parent.iterdir())
    with pytest.raises(UsageError) as caught:
        written(path, pair, tokenizer, **options)
    assert "\n" not in str(caught.value)
    assert sorted(path.parent.iterdir()) == before
    return str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_a_file_holds_what_the_converter_would_write(tmp_path, name):
    pair = fixture(name)
    path = written(tmp_path / "model.gguf", pair)
    models.save_pretrained(tmp_path / "hf", *pair, tokenizer=None, card="")
    values = json.loads((tmp_path / "hf" / "config.json").read_text())
    architecture = CASES[name][1]
    wanted = dict(
        converted(load_file(tmp_path / "hf/model.safetensors"), values, architecture)
    )
    reader = gguf.GGUFReader(path)
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert found.keys() - wanted.keys() <= {"rope_freqs.weight"}
    assert ("rope_freqs.weight" in found) == (name == "llama3")
    for tensor, value in wanted.items():
        assert found[tensor].shape.tolist() == list(value.shape[::-1])
        flat = np.asarray(found[tensor].data).reshape(value.shape)
        np.testing.assert_array_equal(flat, value, err_msg=tensor)
    keys = {key: field.contents() for key, field in reader.fields.items()}
    assert keys["general.architecture"] == architecture
    for key, value in metadata(values, architecture).items():
        assert keys[f"{architecture}.{key}"] == pytest.approx(value), key
    again, same = models.load_pretrained(path)
    assert canonical(again.config) == canonical(pair[0].config)
    tolerance = 2e-7 if "gemma" in name else 0  # norms are stored with 1 added

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)

    jax.tree.map(compare, same, pair[1])


@pytest.mark.parametrize(
    ("dtype", "error"), [("F16", 2**-11), ("BF16", 2**-8), ("Q8_0", 2**-7)]
)
def test_matrices_are_rounded_and_all_else_is_not(tmp_path, tokenizer, dtype, error):
    pair = student(**GPT2)
    path = written(tmp_path / "model.gguf", pair, tokenizer, dtype=dtype)
    for tensor in gguf.GGUFReader(path).tensors:
        is_matrix = len(tensor.shape) > 1 and tensor.name != "position_embd.weight"
        assert tensor.tensor_type.name == (dtype if is_matrix else "F32"), tensor.name
    assert models.stored_formats(path) == [dtype, "F32"]
    _, same = models.load_pretrained(path, dtype="float32")

    def compare(a, b):
        assert np.abs(a - b).max() <= error * np.abs(b).max()

    jax.tree.map(compare, same, pair[1] | {"embed": same["embed"]})
    compare(same["embed"]["tokens"][:340], pair[1]["embed"]["tokens"][:340])
    positions = [params["embed"]["positions"] for params in (same, pair[1])]
    np.testing.assert_array_equal(*positions)


def test_rows_that_no_block_divides_become_f16(tmp_path):
    pair = student(width=48, ffn_width=64)
    path = written(tmp_path / "model.gguf", pair, dtype="Q8_0")
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert kinds["token_embd.weight"] == "F16"
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"


def test_bfloat16_parameters_are_written_exactly(tmp_path):
    model, params = student()
    params = jax.tree.map(lambda x: x.astype("bfloat16"), params)
    path = written(tmp_path / "model.gguf", (model, params), dtype="BF16")
    _, same = models.load_pretrained(path)
    jax.tree.map(
        np.testing.assert_array_equal,
        same["layers"],
        params["layers"],
    )


def test_what_gguf_cannot_express_is_refused_and_named(tmp_path, tokenizer):
    """And leaves nothing behind."""
    path = tmp_path / "model.gguf"
    for changes, words in (
        ({"query_scalar": 3.0}, "query_scalar"),
        ({"windows": (5, 0)}, "ministral"),
        ({"qkv_bias": True, "head_width": 32}, "qwen2.attention.key_length must be 16"),
        ({"logit_softcap": 9.0}, "logit_softcap"),
        ({"qk_norm": True, "qkv_bias": True, "out_bias": True}, "qkv_bias"),
        (
            {"qk_norm": True, "rope_scaling": RopeScalingConfig("llama3", 8.0)},
            "rope_scaling",
        ),
        (
            {"rope_scaling": RopeScalingConfig("llama3", 8.0, high_factor=8.0)},
            "rope_freqs.weight",
        ),
    ):
        assert words in refusal(path, student(**changes)), changes
    neox = models.load_pretrained(FIXTURES / "gpt_neox")
    assert "not of a gpt_neox" in refusal(path, neox)
    gemma2 = models.load_pretrained(FIXTURES / "gemma2")
    assert "query_scalar" in refusal(path, gemma2)
    model, params = student()
    assert "one of F32, F16, BF16, Q8_0" in refusal(path, (model, params), dtype="Q4_0")
    large = {**params, "final_norm": {"scale": params["final_norm"]["scale"] * 1e6}}
    written(tmp_path / "large.gguf", (model, large), dtype="F16")  # a norm stays F32
    large = {**params, "embed": {"tokens": params["embed"]["tokens"] * 1e9}}
    message = refusal(path, (model, large), dtype="F16")
    assert "'token_embd.weight' does not fit in F16; use F32 or BF16" in message
    few = student(vocab_size=200)
    assert "ids and the model 200" in refusal(path, few, tokenizer)


def test_no_file_is_overwritten_or_misnamed(tmp_path, monkeypatch):
    pair = student()
    path = written(tmp_path / "model.gguf", pair)
    content = path.read_bytes()
    assert "exists already" in refusal(path, pair)
    assert path.read_bytes() == content
    assert "ends in .gguf" in refusal(tmp_path / "model.GGUF", pair)
    for name in ("m.safetensors", "m.bin", "m.pt", "m.gguf", "m.GGUF"):
        with pytest.raises(UsageError, match="would be a directory"):
            models.save_pretrained(tmp_path / name, *pair, tokenizer=None, card="")
        assert not (tmp_path / name).exists()
    models.save_pretrained(tmp_path / "v1.5", *pair, tokenizer=None, card="")

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(save, "_encoded", full)
    with pytest.raises(OSError, match="no space"):
        written(tmp_path / "new.gguf", pair)
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == ["model.gguf", "v1.5"]


def test_the_window_of_a_mistral_is_written_with_a_warning(tmp_path, capsys):
    written(tmp_path / "model.gguf", student(windows=(5,), max_length=64))
    assert "ignore the sliding window" in capsys.readouterr().err
    written(tmp_path / "short.gguf", student(windows=(64,), max_length=64))
    assert "ignore" not in capsys.readouterr().err


def rebuilt(tokenizer, size=0):
    """Returns the tokenizer that a file made of one holds."""
    meta = gguf_tokenizer_metadata(tokenizer, size or tokenizer.vocab_size)
    read = read_gguf_tokenizer(meta, epath.Path("model.gguf"))
    return TokenizerFile(*read).ended_by(meta["tokenizer.ggml.eos_token_id"], "it")


def agree(one, other):
    for text in HARD:
        a, b = one.tokenizer.encode(text), other.tokenizer.encode(text)
        assert a.ids == b.ids, text
        assert one.decode(a.ids) == other.decode(b.ids)
    assert same_ids(one, other)
    assert (one.prefix, one.stops) == (other.prefix, other.stops)
    return True


def changed(tokenizer, change):
    """Returns a tokenizer after a change to the library's object."""
    made = tokenizers.Tokenizer.from_str(tokenizer.tokenizer.to_str())
    change(made)
    return TokenizerFile(made, Chat()).ended_by(END, "it")


def test_a_tokenizer_survives_the_file(tokenizer):
    agree(rebuilt(tokenizer, size=352), tokenizer)
    unmerged = train_tokenizer((), TokenizerConfig(kind="bytes"))
    agree(rebuilt(unmerged), unmerged)
    begun = processors.TemplateProcessing(
        single=[END, "$A"], special_tokens=[(END, tokenizer.end_of_text)]
    )
    first = changed(tokenizer, lambda made: setattr(made, "post_processor", begun))
    assert first.prefix == (tokenizer.end_of_text,)
    agree(rebuilt(first), first)
    tokens = ["<think>", AddedToken("</s>", special=True)]
    more = changed(tokenizer, lambda made: made.add_tokens(tokens))
    more = more._replace(chat=Chat("{{ messages }}", "", "</s>"))
    agree(rebuilt(more), more)
    padding = (("pad_token", END),)
    assert rebuilt(more).chat == more.chat._replace(tokens=padding)


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_the_pattern_of_words_is_recognised(tokenizer, pre):
    meta = gguf_tokenizer_metadata(tokenizer, tokenizer.vocab_size)
    meta["tokenizer.ggml.pre"] = pre
    read = read_gguf_tokenizer(meta, epath.Path("model.gguf"))
    one = TokenizerFile(*read).ended_by(END, "it")
    found = gguf_tokenizer_metadata(one, one.vocab_size)
    assert found == meta
    agree(rebuilt(one), one)


@pytest.mark.parametrize("has_prefix", [True, False])
def test_a_sentence_piece_tokenizer_survives_the_file(has_prefix):
    _, scores = sentence_piece()
    meta = sentence_piece()[0] | {
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_space_prefix": has_prefix,
    }
    read = read_gguf_tokenizer(meta, epath.Path("model.gguf"))
    one = TokenizerFile(*read).ended_by("</s>", "it")
    agree(rebuilt(one), one)
    found = gguf_tokenizer_metadata(one, one.vocab_size)
    order = sorted(scores, key=scores.get)
    number = found["tokenizer.ggml.tokens"].index
    ranks = [found["tokenizer.ggml.scores"][number(token)] for token in order]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("pattern of words", lambda t: setattr(t, "normalizer", normalizers.NFKC())),
        (
            "pattern of words",
            lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.ByteLevel()),
        ),
        ("added tokens", lambda t: t.add_tokens([AddedToken("<m>", lstrip=True)])),
        ("added tokens", lambda t: t.add_tokens([AddedToken("m", single_word=True)])),
    ],
)
def test_a_tokenizer_that_gguf_cannot_hold_is_refused(tokenizer, part, change):
    with pytest.raises(UsageError, match=f"it differs in its .*{part}"):
        gguf_tokenizer_metadata(changed(tokenizer, change), 400)


def test_a_unigram_tokenizer_is_refused():
    model = tokenizers.models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0)
    found = TokenizerFile(tokenizers.Tokenizer(model), Chat()).ended_by("a", "it")
    with pytest.raises(UsageError, match="Unigram"):
        gguf_tokenizer_metadata(found, 10)


def test_a_file_without_a_tokenizer_says_so(tmp_path):
    path = written(tmp_path / "model.gguf", student())
    with pytest.raises(UsageError, match="tokens is missing"):
        load_tokenizer(path, END)
    assert read_header(epath.Path(path)).metadata["tokenizer.ggml.model"] == "none"


class TestOthers:
    """Runs where these programs are installed; they are not test dependencies."""

    # Where transformers reads all that the file says: it knows no gemma, takes the
    # later Gemmas' windows, scales and soft-caps and Qwen3's head width of 128 from its
    # defaults, and ignores linear scaling, windows and the Llamas' biases.
    READ = ("llama", "smollm2", "qwen2", "qwen3", "gpt2")

    @pytest.mark.parametrize("name", READ)
    def test_transformers_reads_it(self, tmp_path, tokenizer, name):
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        pytest.importorskip("accelerate")
        changes = {"qwen3": {"head_width": 128}, "gpt2": {"max_length": 1024}}
        config = models.load_config(FIXTURES / name)[1]
        config = dataclasses.replace(
            config, **CASES[name][0], **changes.get(name, {}), vocab_size=352
        )
        model = models.build(config)
        params = random_params(model)
        path = written(tmp_path / "model.gguf", (model, params), tokenizer)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file=path.name, dtype=torch.float32
        )
        ids = tokenizer.encode_prompt("the thing 12 Maß")
        with torch.no_grad():
            wanted = theirs.eval()(torch.tensor([ids])).logits.numpy()
        found = model.logits(params, jnp.array([ids]))[..., :352]
        np.testing.assert_allclose(found, wanted, atol=2e-5)

    def test_transformers_makes_the_same_ids(self, tmp_path, tokenizer):
        transformers = pytest.importorskip("transformers")
        path = written(tmp_path / "model.gguf", student(), tokenizer)
        theirs = transformers.AutoTokenizer.from_pretrained(
            tmp_path, gguf_file=path.name
        )
        for text in HARD:
            ids = tokenizer.encode_prompt(text, "parse")
            assert theirs(text).input_ids == ids, text
        assert theirs.eos_token == END

    @pytest.mark.parametrize("name", CASES)
    def test_llama_cpp_reads_it(self, tmp_path, tokenizer, name):
        llama_cpp = pytest.importorskip("llama_cpp")
        config = models.load_config(FIXTURES / name)[1]
        changes = CASES[name][0] | ({"windows": (0,)} if name == "mistral" else {})
        config = dataclasses.replace(config, **changes, vocab_size=352)
        model = models.build(config)
        params = random_params(model)
        path = written(tmp_path / "model.gguf", (model, params), tokenizer)
        theirs = llama_cpp.Llama(
            os.fspath(path),
            n_ctx=64,
            logits_all=True,
            verbose=False,
            type_k=0,
            type_v=0,
        )
        for text in HARD:
            ids = theirs.tokenize(text.encode(), add_bos=False, special=True)
            assert ids == tokenizer.encode_prompt(text), text
        ids = tokenizer.encode_prompt("the thing 12 Maß")
        theirs.eval(ids)
        found = model.logits(params, jnp.array([ids]))[0, :, :352]
        # Its GELU is a table in float16.
        tolerance = 1e-2 if "gelu" in config.activation else 2e-5
        np.testing.assert_allclose(found, theirs.scores[: len(ids)], atol=tolerance)
