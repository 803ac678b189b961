"""Text goes in and out unbroken, from every kind of model on disk."""

import dataclasses
import json
import shutil

import gguf
import numpy as np
import pytest
import runs
import tokenizers
from etils import epath
from runs import ROOT
from toys import random_params

from kdjax import models
from kdjax.checkpoints import native, open_model
from kdjax.checkpoints.hf.directory import HuggingFaceModel
from kdjax.config import ModelConfig, TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.generation.sampling import Sampling
from kdjax.generation.stream import generate_text
from kdjax.text.chat import Chat
from kdjax.text.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer

FIXTURES = ROOT / "tests" / "fixtures"


TEXT = "naïve café — 東京 🎉👩‍👩‍👧 done"


@pytest.fixture(scope="module")
def by_bytes():
    return train_tokenizer([], TokenizerConfig(kind="bytes"))


def test_a_character_comes_whole_or_not_at_all(by_bytes):
    ids = by_bytes.encode_prompt(TEXT)
    assert len(ids) == len(TEXT.encode()) > len(TEXT)
    step = by_bytes.make_stream([])
    pieces = [step(token) for token in ids]
    assert "".join(pieces) == TEXT
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    assert sum(piece == "" for piece in pieces) == len(ids) - len(TEXT)
    # A text that stops within a character ends before it; its end is not shown.
    step = by_bytes.make_stream(ids[:1])
    half = by_bytes.encode_prompt("é")[:1]
    assert [step(token) for token in (*ids[1:2], *half, by_bytes.end_of_text)] == [
        "a",
        "",
        "",
    ]


def test_a_stream_of_any_bytes_is_what_decoding_them_gives(by_bytes):
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = rng.integers(0, 257, 40).tolist()
        step = by_bytes.make_stream(ids[:5])
        shown = "".join(step(token) for token in ids[5:])
        whole = by_bytes.tokenizer.decode(ids)
        assert whole.rstrip("\N{REPLACEMENT CHARACTER}").endswith(
            shown.rstrip("\N{REPLACEMENT CHARACTER}")
        )


def test_bytes_that_are_no_character_do_not_stop_a_stream():
    """Where SentencePiece falls back to bytes, the library gives up on these."""
    bytes_ = {f"<0x{byte:02X}>": byte for byte in range(256)}
    library = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=bytes_ | {"▁a": 256}, merges=[], byte_fallback=True)
    )
    library.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    step = TextTokenizer(library, 0, "").make_stream([])
    pieces = [step(token) for token in (256, 0x0A, 0xF0, 0x9F, 256, 256, 0xC3, 0xA9)]
    assert "".join(pieces) == "a\n\N{REPLACEMENT CHARACTER} a aé"
    library.add_special_tokens(["<s>"])  # which says nothing, also after a restart
    step = TextTokenizer(library, 0, "").make_stream([])
    assert "".join(map(step, (0x41, 0xF0, 257, 256))).endswith(" a")


def test_a_word_behind_the_prompt_keeps_its_space():
    """SentencePiece drops the space before the first word it decodes."""
    vocab = {"<end>": 0, "▁one": 1, "▁two": 2}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, "<end>"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    library.decoder = tokenizers.decoders.Metaspace()
    tokenizer = TextTokenizer(library, 0, "")
    prompt = tokenizer.encode_prompt("one")
    assert tokenizer.make_stream(prompt)(2) == " two"
    assert tokenizer.make_stream([])(2) == "two"


TEMPLATE = """{% for message in messages %}
<{{ message.role }}>{{ message.content | trim }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<assistant>{% endif %}"""


def test_a_message_is_put_as_the_chat_template_says(by_bytes):
    tokenizer = by_bytes._replace(chat=Chat(TEMPLATE, eos_token="<|endoftext|>"))
    ids = tokenizer.encode_message(" Café? ")
    assert by_bytes.end_of_text in ids
    text = by_bytes.tokenizer.decode(ids, skip_special_tokens=False)
    assert text == "<user>Café?<|endoftext|>\n<assistant>"


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("", "no chat template"),
        ("{% if %}", "fails"),
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("{{ messages[7].content }}", "fails"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ messages.append(1) }}", "fails"),  # the sandbox lets nothing be changed
        ("{{ ''.__class__.__mro__ }}", "fails"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_a_template_that_fails_is_refused_in_one_line(by_bytes, template, word):
    with pytest.raises(UsageError, match=word):
        by_bytes._replace(chat=Chat(template)).encode_message("Hello")


def test_a_prompt_that_is_no_text_is_refused(by_bytes):
    with pytest.raises(UsageError, match="UTF-8"):
        by_bytes.encode_prompt("a\udcff")


WORDS = ["the theory of the thing, then the end of the theory"] * 9


@pytest.fixture(scope="module")
def small():
    """A tokenizer of few enough ids for the fixtures."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=40, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False
    )
    library.train_from_iterator(WORDS, trainer)
    return library


@pytest.fixture
def directory(tmp_path, small):
    """A fixture with a tokenizer beside it."""
    target = tmp_path / "llama"
    shutil.copytree(FIXTURES / "llama", target)
    small.save(str(target / "tokenizer.json"))
    return target


@pytest.fixture
def run(tmp_path):
    """A workdir with two students, the second of which is not finished."""
    tokenizer = train_tokenizer(WORDS, TokenizerConfig(vocab_size=280))
    config = ModelConfig(
        layers=1, width=16, heads=2, vocab_size=280, attention="cudnn", remat="block"
    )
    model = models.build(dataclasses.replace(config, attention="auto"))
    workdir = epath.Path(tmp_path / "run")
    for number in (3, 10):
        place = workdir / f"student-{number}" / "model"
        place.mkdir(parents=True)
        if number == 3:
            tokenizer.save(place / "tokenizer.json")
            card = {
                "model": dataclasses.asdict(config),
                "tokenizer": tokenizer.sha256,
                "end_of_text": tokenizer.end_of_text_token,
            }
            native.save_model(place, random_params(model), card)
    return workdir


def continuation(stored, texts, **options):
    pieces = []
    options = {"max_tokens": 8, "sampling": Sampling(), "seed": 0} | options
    speed = generate_text(stored, texts, write=pieces.append, **options)
    return pieces, speed


def test_a_workdir_its_student_and_its_model_are_the_same_model(run):
    model = run / "student-3" / "model"
    assert {open_model(p).path for p in (run, run / "student-3", model)} == {model}
    stored = open_model(model)
    pieces, speed = continuation(stored, ["the theory"])
    assert pieces[0] == "the theory" and pieces[-1] == "\n"
    assert (speed.prefill_tokens, speed.decode_tokens) == (
        len(stored.tokenizer.encode_prompt("the theory")),
        7,
    )
    assert "prefill" in str(speed) and "decode: 7 tokens" in str(speed)


def test_an_exported_student_says_what_it_said_before(run, tmp_path):
    stored = open_model(run)
    target = tmp_path / "exported"
    models.save_pretrained(target, *stored.load(), tokenizer=stored.tokenizer, card="")
    again = open_model(target)
    assert again.stop_tokens == stored.stop_tokens == (stored.tokenizer.end_of_text,)
    assert continuation(again, ["then"])[0] == continuation(stored, ["then"])[0]


def test_a_gguf_file_says_what_its_student_said(run, tmp_path):
    stored = open_model(run)
    target = tmp_path / "student.gguf"
    models.save_gguf(target, *stored.load(), tokenizer=stored.tokenizer)
    again = open_model(target)
    assert again.stop_tokens == stored.stop_tokens
    assert continuation(again, ["then"])[0] == continuation(stored, ["then"])[0]


def test_an_answer_ends_where_its_template_ends_it(run, small, tmp_path):
    """Not only where a document does; a run and an export keep it."""
    # In words that the small tokenizer has ids for.
    template = TEMPLATE.replace("<{{ message.role }}>", "the ")
    template = template.replace("<assistant>", "then")
    config = {"chat_template": template, "eos_token": "</s>", "bos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    small.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json", "<pad>")
    model = models.build(ModelConfig(layers=1, width=16, heads=2, vocab_size=40))
    own, exported = epath.Path(tmp_path / "own"), epath.Path(tmp_path / "exported")
    own.mkdir()
    tokenizer.save_files(own)
    card = {"model": dataclasses.asdict(model.config), "end_of_text": "<pad>"}
    params = random_params(model)
    native.save_model(own, params, card | {"tokenizer": tokenizer.sha256})
    models.save_pretrained(exported, model, params, tokenizer=tokenizer, card="")
    models.save_gguf(tmp_path / "model.gguf", model, params, tokenizer=tokenizer)
    for path in (own, exported, tmp_path / "model.gguf"):
        stored = open_model(path)
        assert stored.stop_tokens == (0, 2)
        assert set(stored.tokenizer.stops) == {0, 2}
        padding = (("pad_token", "<pad>"),)
        chat = stored.tokenizer.chat._replace(stops=())
        assert chat == Chat(template, "<s>", "</s>", padding)
        assert 2 in stored.tokenizer.encode_message("the theory")
        pieces, speed = continuation(stored, ["the theory"], chat=True)
        assert pieces[0] == "the theory\n"
        assert speed.prefill_tokens == len(
            stored.tokenizer.encode_message("the theory")
        )


def test_several_texts_come_one_after_another(directory):
    stored = open_model(directory)
    texts = ["the theory", "then", "of"]
    alone = ["".join(continuation(stored, [text])[0]) for text in texts]
    pieces, _ = continuation(stored, texts)
    assert "".join(pieces) == "\n".join(alone)


@pytest.mark.parametrize(
    ("files", "stops"),
    [
        ({"config": 2}, (2,)),
        ({"config": 2, "generation_config": [5, 3, 5]}, (5, 3)),
        ({"config": 2, "generation_config": None}, (2,)),
    ],
)
def test_the_ids_that_end_a_text_are_those_that_transformers_would_take(
    tmp_path, files, stops
):
    for name, value in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"eos_token_id": value}))
    assert HuggingFaceModel(epath.Path(tmp_path)).stop_tokens == stops


def test_nobody_naming_an_end_is_a_mistake(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="eos_token_id"):
        _ = HuggingFaceModel(epath.Path(tmp_path)).stop_tokens


def test_a_gguf_file_says_where_texts_end(tmp_path):
    path = epath.Path(tmp_path / "model.gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("tokenizer.ggml.eos_token_id", 7)
    writer.add_uint32("tokenizer.ggml.eot_token_id", 9)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert open_model(path).stop_tokens == (7, 9)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, "ab"),
        ({"add_bos_token": True}, "<s>ab"),
        ({"pre": "llama-bpe"}, "<s>ab"),
        ({"pre": "llama-bpe", "add_bos_token": False}, "ab"),
    ],
    ids=str,
)
def test_a_gguf_file_says_whether_texts_begin_with_a_token(tmp_path, said, expected):
    path = epath.Path(tmp_path / "model.gguf")
    writer = gguf.GGUFWriter(path, "gpt2")  # whose words are split as GPT-2's
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "<s>", "ab"])
    writer.add_token_types([1, 1, 3, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(2)
    for key, value in said.items():
        add = writer.add_string if isinstance(value, str) else writer.add_bool
        add(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = load_tokenizer(path, 2)
    ids = tokenizer.encode_prompt("ab")
    tokens = map(tokenizer.tokenizer.id_to_token, ids)
    assert "".join(tokens) == expected
    assert tokenizer.prefix == tuple(ids[:-1])


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda run: (run / "student-3").rmtree(), "no finished model"),
        (lambda run: (run / "student-3" / "model" / "model.json").unlink(), "finished"),
        (lambda run: run.rmtree(), "does not exist"),
        (lambda run: (run.rmtree(), run.mkdir()), "holds no model"),
    ],
)
def test_a_place_without_a_finished_model_is_refused(run, damage, word):
    damage(run)
    with pytest.raises(UsageError, match=word):
        open_model(run)


def test_what_does_not_belong_together_is_refused(run, directory, by_bytes):
    with pytest.raises(UsageError, match="prompt is empty"):
        continuation(open_model(directory), [""])
    by_bytes.save(run / "student-3" / "model" / "tokenizer.json")
    with pytest.raises(UsageError, match=r"tokenizer\.json was changed"):
        _ = open_model(run).tokenizer
    by_bytes.save(epath.Path(directory / "tokenizer.json"))
    with pytest.raises(UsageError, match="the model knows 50 ids"):
        continuation(open_model(directory), ["Zebra"])
    (directory / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"tokenizer\.json is missing"):
        _ = open_model(directory).tokenizer


def test_an_end_can_be_given_by_its_id(directory):
    path = epath.Path(directory / "tokenizer.json")
    assert load_tokenizer(path, 2).sha256 == load_tokenizer(path, "</s>").sha256
    with pytest.raises(UsageError, match="no token 99"):
        load_tokenizer(path, 99)


def command(*arguments):
    return runs.run(
        *("-m", "kdjax.generate", *arguments), cwd=ROOT, timeout=120, check=False
    )


def test_the_command_prints_the_text_and_its_speed_apart(directory):
    done = command(
        f"--checkpoint={directory}",
        "--prompt=the theory",
        "--prompt=then",
        "--max_tokens=6",
        *("--temperature=0.9", "--top_k=30", "--top_p=0.95", "--seed=3"),
    )
    assert done.returncode == 0, done.stderr
    stored = open_model(directory)
    sampling = Sampling(0.9, 30, 0.95)
    expected, _ = continuation(
        stored, ["the theory", "then"], max_tokens=6, sampling=sampling, seed=3
    )
    assert done.stdout == "".join(expected)
    assert "prefill: " in done.stderr and "decode: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--checkpoint is missing"]),
        (["--checkpoint=x"], ["--prompt is missing"]),
        (["--checkpoint=x", "--prompt=a"], ["--checkpoint=x does not exist"]),
        (["--checkpoint=README.md", "--prompt=a"], ["README.md holds no model"]),
        (["--checkpoint=x", "--prompt=a", "--max_tokens=0"], ["--max_tokens=0"]),
        (["--checkpoint=x", "--prompt=a", "--top_p=2"], ["--top_p", "2.0"]),
        (["--checkpoint=x", "--prompt=a", "--temprature=2"], ["temprature"]),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, words):
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_help_says_all():
    done = command("--help")
    assert done.returncode == 0
    flags = ("checkpoint", "prompt", "max_tokens", "temperature", "top_k", "top_p")
    for name in (*flags, "seed"):
        assert f"--{name}:" in done.stdout
    assert "python -m kdjax.generate --checkpoint=runs/gpt_small" in done.stdout
