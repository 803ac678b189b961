"""What a tokenizer cannot encode, what text must not say, and who decides on BOS."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tokenizer_layouts
import tokenizers
from etils import epath
from measurements import make_results
from runs import run

from kdjax import config as configs
from kdjax import report
from kdjax.checkpoints import native
from kdjax.checkpoints.hf.directory import HuggingFaceModel
from kdjax.config import Config, DataConfig, ModelConfig, TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.data import prepare
from kdjax.experiment.workdir import check_data, claim
from kdjax.results.data import SplitInfo
from kdjax.results.files import read
from kdjax.text import (
    Lost,
    changes,
    coverage,
    load_tokenizer,
    read_tokenizer,
    training_key,
)
from kdjax.text.text_tokenizer import TextTokenizer

pytestmark = pytest.mark.usefixtures("home")


def put(name, directory="layout"):
    """Writes a layout and returns its tokenizer.json."""
    tokenizer_layouts.write(name, directory)
    return epath.Path(directory) / "tokenizer.json"


def save(library, **beside):
    """Writes a tokenizer, and a tokenizer_config.json if it has content."""
    library.save("tokenizer.json")
    if beside:
        pathlib.Path("tokenizer_config.json").write_text(json.dumps(beside))
    return epath.Path("tokenizer.json")


def unigram(unk_id=None, pieces="abcde ▁"):
    vocab = [("</s>", 0.0), *((piece, -1.0) for piece in pieces)]
    library = tokenizers.Tokenizer(tokenizers.models.Unigram(vocab, unk_id))
    library.add_special_tokens(["</s>", "<x>"])
    return library


def letters(pieces="abcde ", merges=(), **options):
    """Returns a BPE of letters, which has no ids for others."""
    vocab = {piece: number for number, piece in enumerate([*pieces, "</s>"])}
    model = tokenizers.models.BPE(vocab, list(merges), **options)
    library = tokenizers.Tokenizer(model)
    library.add_special_tokens(["</s>"])
    return library


def words(**options):
    vocab = {"</s>": 0, "abc": 1, "de": 2}
    model = tokenizers.models.WordLevel(vocab, **options)
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens(["</s>"])
    return library


def corpus(*documents, copies=40):
    """Writes documents into a file, enough of them that some are held out."""
    lines = [json.dumps({"text": text}) for text in documents * copies]
    pathlib.Path("corpus.jsonl").write_text("\n".join(lines))
    return DataConfig(
        source="files", pattern="corpus.jsonl", length=16, validation_fraction=0.2
    )


def rows(prepared):
    return [
        row["tokens"].tolist() for split in prepared.splits.values() for row in split
    ]


def prepared_by(path, data, **options):
    chosen = TokenizerConfig(kind="file", path=str(path), **options)
    return prepare(data, chosen, epath.Path("cache"))


# What has no id.


@pytest.mark.parametrize(
    ("library", "text", "lost", "ids"),
    [
        (unigram(), "abXé<x>c", "Xé", [1, 2, 8, 3]),
        (unigram(unk_id=5), "abX", "X", [1, 2, 5]),
        (letters(merges=[("a", "b")], pieces=["a", "b", "ab", " "]), "aéb", "é", [2]),
        (
            letters(merges=[("a", "b")], pieces=["a", "b", "ab"]),
            "a日本b 日",
            "日本日",
            [2],
        ),
        (letters(unk_token="e"), "aéb", "é", [0, 4, 1]),
        (letters(unk_token="nothing"), "aéb", "é", [0, 1]),
        (words(unk_token="de"), "abc nö  de", "nöde", [1, 2, 2]),
        (words(unk_token="nothing"), "abc nö  de", "nö", [1, 2]),
    ],
    ids=[
        "unigram",
        "unigram-unk",
        "bpe",
        "bpe-wide",
        "bpe-unk",
        "bpe-bad-unk",
        "words-unk",
        "words",
    ],
)
def test_what_has_no_id_is_counted_and_the_rest_kept(library, text, lost, ids):
    tokenizer = load_tokenizer(save(library), "</s>")
    count = Lost("train", 1000, fraction=1.0)
    (found,) = tokenizer.encode([text], "parse", count)
    assert found.tolist() == [*ids, tokenizer.end_of_text]
    assert count.bytes == len(lost.encode())
    cover = coverage(tokenizer.tokenizer)
    assert not cover.is_total
    has_own = cover.counter is tokenizer.tokenizer
    if has_own:  # an unknown token is a token
        assert tokenizer.encode_prompt(text, "parse") == ids
    else:
        with pytest.raises(UsageError, match=f"no ids for {lost!r} in the prompt"):
            tokenizer.encode_prompt(text, "parse")


@pytest.mark.parametrize("name", ["alone", "llama2", "gemma", "qwen2", "gpt_neox"])
def test_where_nothing_can_be_lost_nothing_is_counted(name):
    path = put(name)
    library = read_tokenizer(path).tokenizer
    assert coverage(library).is_total
    everything = "".join(map(chr, [*range(0x500), 0x65E5, 0x1F917, 0x10FFFF]))
    encoding = library.encode(everything, add_special_tokens=False)
    unknown = library.model.unk_token and library.token_to_id(library.model.unk_token)
    assert unknown is None or unknown not in encoding.ids
    assert coverage(library)._replace(unknown=unknown).lost(everything, encoding) == ""


def test_one_byte_that_is_missing_makes_all_the_difference():
    content = json.loads(
        tokenizer_layouts.LAYOUTS["alone"]()["tokenizer.json"].to_str()
    )
    for letter in "ab":
        content["model"]["vocab"].pop(letter)
    content["model"]["merges"] = []
    pathlib.Path("t.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer("t.json", "<|endoftext|>")
    assert not coverage(tokenizer.tokenizer).is_total
    count = Lost("train", 100, 1.0)
    list(tokenizer.encode(["cabbage"], lost=count))
    assert count.bytes == 4


@pytest.mark.parametrize(
    ("library", "found"),
    [
        ("bert", ("BertNormalizer", "BertPreTokenizer")),
        ("qwen2", ("NFC",)),
        ("llama2", ()),
    ],
)
def test_steps_that_change_a_text_are_named(library, found):
    assert changes(read_tokenizer(put(library)).tokenizer) == found


@pytest.mark.parametrize("library", [unigram(), letters()], ids=["unigram", "bpe"])
def test_rows_that_lose_too_much_are_refused_and_those_that_lose_little_say_so(library):
    path = save(library)
    data = corpus("abc de " * 20, "日本語 abc")
    with pytest.raises(UsageError, match=r"lost_fraction") as caught:
        prepared_by(path, data, end_of_text="</s>")
    assert "split (such as '日'" in str(caught.value) and "\n" not in str(caught.value)
    some = {"end_of_text": "</s>", "lost_fraction": 0.2}
    prepared = prepared_by(path, data, **some)
    for split in prepared.info["splits"].values():
        assert 0 < split["lost_bytes"] < 0.2 * split["bytes"]
        assert split["lost_bytes"] % 9 == 0
    assert prepared_by(path, data, **some).info == prepared.info  # from the cache
    with pytest.raises(UsageError, match=r"more than 0\.001 of the train"):
        prepared_by(path, data, end_of_text="</s>")


def test_a_report_without_the_count_is_older_and_does_not_claim_zero():
    assert SplitInfo(1, 1, 1, 1, "").lost_bytes is None


def test_the_page_shows_what_was_lost_changed_and_kept(tmp_path):
    results = make_results(student=[1.2], twin=[1.3])
    plain = report.write(results, epath.Path(tmp_path / "plain")).read_text()
    data = results.data
    split = dataclasses.replace(data.splits["train"], lost_bytes=12345)
    tokenizer = dataclasses.replace(data.tokenizer, changes=("NFC", "Lowercase"))
    data = dataclasses.replace(
        data,
        splits={**data.splits, "train": split},
        tokenizer=tokenizer,
        special_tokens="text",
    )
    results = dataclasses.replace(results, data=data)
    page = report.write(results, epath.Path(tmp_path / "page")).read_text()
    for words in ("12,345 bytes without an id", "NFC, Lowercase", "kept as text"):
        assert words in page and words not in plain
    assert read(epath.Path(tmp_path / "page" / "report.json")).data == data


def test_dropout_truncation_and_padding_are_switched_off():
    library = tokenizer_layouts.byte_level("</s>", "<pad>")
    plain = load_tokenizer(save(library), "</s>")
    library.model.dropout = 0.5
    library.enable_truncation(3)
    library.enable_padding(pad_token="<pad>", length=16)
    tokenizer = load_tokenizer(save(library), "</s>")
    found = [tokenizer.encode_prompt("hello world hello") for _ in range(20)]
    assert found == [plain.encode_prompt("hello world hello")] * 20
    assert tokenizer.sha256 == plain.sha256
    assert '"dropout":0' not in tokenizer.files()["tokenizer.json"].replace(" ", "")


# Control tokens in texts.


@pytest.mark.parametrize(
    "name", ["alone", "t5", "word_level", "llama2", "mistral_tekken"]
)
def test_rows_hold_control_tokens_only_where_they_are_parsed(name):
    path = put(name)
    file = read_tokenizer(path)
    end = file.chat.eos_token or "<|endoftext|>"
    number = file.tokenizer.token_to_id(end)
    data = corpus(f"hello {end} world")
    options = {"end_of_text": end, "lost_fraction": 1.0}
    text = prepared_by(path, data, **options)
    parse = prepared_by(
        path, dataclasses.replace(data, special_tokens="parse"), **options
    )
    counts = [np.count_nonzero(np.array(rows(p)) == number) for p in (text, parse)]
    padding = sum(row.count(0) for row in rows(text)) if number == 0 else 0
    documents = sum(s["documents"] for s in text.info["splits"].values())
    if number:
        assert counts == [documents, 2 * documents]
    else:
        assert counts[0] - padding <= documents < counts[1]
    for prepared, way in ((text, "text"), (parse, "parse")):
        assert prepared.info["special_tokens"] == way
        for split in prepared.info["splits"].values():
            assert split["control_tokens"] == split["documents"]
    assert rows(prepared_by(path, data, **options)) == rows(text)


def test_rows_without_control_tokens_are_those_of_older_versions():
    """Their place in the cache does not depend on the new keys."""
    data = corpus("hello world")
    for options in ({}, {"kind": "bytes"}):
        tokenizer = TokenizerConfig(vocab_size=260, **options)
        made = prepare(data, tokenizer, epath.Path("cache"))
        before = {p.name for p in pathlib.Path("cache").glob("*/*")}
        other = dataclasses.replace(data, special_tokens="parse")
        assert rows(prepare(other, tokenizer, epath.Path("cache"))) == rows(made)
        after = {p.name for p in pathlib.Path("cache").glob("*/*")}
        assert after == before
        assert "special_tokens" not in made.info
    assert training_key(TokenizerConfig()) == (
        "TokenizerConfig(kind='bpe', vocab_size=1024, path='', "
        "end_of_text='<|endoftext|>')"
    )


def test_own_tokenizers_keep_text_as_text():
    data = corpus("hello <|endoftext|> world")
    made = prepare(data, TokenizerConfig(kind="bytes"), epath.Path("cache"))
    (ids,) = made.tokenizer.encode(["a<|endoftext|>b"])
    assert ids.tolist().count(made.tokenizer.end_of_text) == 1
    assert made.tokenizer.decode(ids) == "a<|endoftext|>b"
    (ids,) = made.tokenizer.encode(["a<|endoftext|>b"], "parse")
    assert made.tokenizer.decode(ids) == "ab"


def test_a_workdir_that_began_on_other_rows_is_refused(tmp_path):
    info = {
        "splits": {"train": {"sha256": "1"}},
        "tokenizer": {"sha256": "2"},
    }
    spelled = {**info, "special_tokens": "text"}
    older, newer = epath.Path(tmp_path / "older"), epath.Path(tmp_path / "newer")
    for path, first in ((older, info), (newer, spelled)):
        path.mkdir()
        check_data(path, first, {})
    check_data(newer, spelled, {})
    check_data(older, {**info, "special_tokens": "parse"}, {})  # as they were then
    for path, other in ((older, spelled), (newer, {**info, "special_tokens": "parse"})):
        with pytest.raises(UsageError, match="other data: special_tokens changed"):
            check_data(path, other, {})


def test_keys_that_only_the_rows_depend_on_may_be_set_later(tmp_path):
    workdir = epath.Path(tmp_path / "run")
    claim(workdir, Config())
    (workdir / "data.json").write_text("{}")
    later = dataclasses.replace(
        Config(),
        data=DataConfig(special_tokens="parse"),
        tokenizer=TokenizerConfig(bos="never", lost_fraction=0.1),
    )
    claim(workdir, later)
    with pytest.raises(UsageError, match=r"config\.data\.length"):
        claim(workdir, dataclasses.replace(later, data=DataConfig(length=64)))


# The token that texts begin with.


def test_files_that_contradict_each_other_on_bos_are_refused_until_one_is_chosen():
    for name, found in (
        ("bos_in_config_only", "does not begin texts with a BOS token, but .* = true"),
        ("bos_in_tokenizer_only", "begins texts with a BOS token, but .* = false"),
    ):
        path = put(name)
        with pytest.raises(UsageError, match=f"{found}; set config.tokenizer.bos"):
            load_tokenizer(path, "</s>")
        always, never = (load_tokenizer(path, "</s>", b) for b in ("always", "never"))
        number = always.tokenizer.token_to_id("<s>")
        assert always.prefix == (number,) and never.prefix == ()
        assert always.encode_prompt("hello") == [number, *never.encode_prompt("hello")]
        assert always.sha256 != never.sha256
        for tokenizer in (always, never):  # what is written contradicts itself no more
            pathlib.Path("out").mkdir(exist_ok=True)
            tokenizer.save_files(epath.Path("out"))
            again = load_tokenizer("out/tokenizer.json", "</s>")
            assert (again.sha256, again.prefix) == (tokenizer.sha256, tokenizer.prefix)


def test_a_model_whose_files_contradict_each_other_says_what_it_follows(capsys):
    for name, begins in (
        ("bos_in_config_only", True),
        ("bos_in_tokenizer_only", False),
    ):
        path = put(name, name)
        config = {"model_type": "llama", "eos_token_id": 276}
        (path.parent / "config.json").write_text(json.dumps(config))
        tokenizer = HuggingFaceModel(path.parent).tokenizer
        assert bool(tokenizer.prefix) == begins
        assert "following the latter" in capsys.readouterr().err


@pytest.mark.parametrize("bos", [None, ""])
def test_without_a_bos_token_none_can_be_missing(bos):
    library = tokenizer_layouts.byte_level("</s>")
    path = save(library, add_bos_token=True, bos_token=bos, eos_token="</s>")
    assert load_tokenizer(path, "</s>").prefix == ()


def test_bos_needs_a_token_and_a_file():
    with pytest.raises(
        UsageError, match=r"names no bos_token, so config\.tokenizer\.bos"
    ):
        load_tokenizer(put("t5"), "</s>", "always")
    config = configs.default()
    config.tokenizer.bos = "never"
    with pytest.raises(UsageError, match=r"is for config\.tokenizer\.kind"):
        configs.validate(config)


def test_what_stands_behind_a_text_stays():
    path = put("bert")
    tokenizer = load_tokenizer(path, "[SEP]", "never")
    assert tokenizer.prefix == ()
    encoding = tokenizer.tokenizer.encode("hello")
    assert encoding.tokens == ["hello", "[SEP]"]


# The files beside a tokenizer.json.


@pytest.mark.parametrize("name", tokenizer_layouts.LAYOUTS)
def test_a_model_written_with_a_tokenizer_has_it_again(name):
    """In kdjax's own format, which hashes it, also after a second round."""
    file = read_tokenizer(put(name))
    tokenizer = file.ended_by(file.tokenizer.get_vocab_size() - 1, name, "never")
    card = {
        "model": dataclasses.asdict(ModelConfig(layers=1, width=16, heads=2)),
        "end_of_text": tokenizer.end_of_text_token,
        "tokenizer": tokenizer.sha256,
    }
    for number in range(2):
        path = epath.Path(f"model{number}")
        path.mkdir()
        tokenizer.save_files(path)
        native.save_model(path, {"w": np.ones(1)}, card)
        again = native.NativeModel(path).tokenizer
        for text in tokenizer_layouts.TEXTS:
            for way in ("text", "parse"):
                (found,), (ids,) = (
                    again.encode([text], way),
                    tokenizer.encode([text], way),
                )
                assert found.tolist() == ids.tolist()
        assert set(again.stops) == set(tokenizer.stops)
        assert again.chat.template == tokenizer.chat.template
        tokenizer = again


def test_a_model_of_an_older_version_is_read_as_it_was_written():
    """It wrote roles whose tokens had no ids, as of a chat model's `<|im_end|>`."""
    tokenizer = load_tokenizer(save(tokenizer_layouts.byte_level("</s>")), "</s>")
    card = {
        "model": dataclasses.asdict(ModelConfig(layers=1, width=16, heads=2)),
        "end_of_text": "</s>",
        "tokenizer": tokenizer.sha256,
    }
    path = epath.Path("model")
    path.mkdir()
    tokenizer.save_files(path)
    config = json.loads((path / "tokenizer_config.json").read_text())
    config |= {"eos_token": "<|im_end|>", "pad_token": "[PAD]"}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    native.save_model(path, {"w": np.ones(1)}, card)
    model = native.NativeModel(path)
    assert model.tokenizer.sha256 == tokenizer.sha256
    assert model.stop_tokens == (tokenizer.end_of_text,)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"tokenizer_config.json": "{"}, "tokenizer_config.json cannot be read"),
        ({"tokenizer_config.json": "[]"}, "must hold a JSON object"),
        ({"added_tokens.json": '{"<x>": "one"}'}, "'one' is not the id of a token"),
        ({"added_tokens.json": '{"<x>": 9999}'}, "'<x>' the id 9999 in .* but 276"),
        ({"added_tokens.json": '{"</s>": 3}'}, "'</s>' the id 3 in .* but 275"),
        (
            {"tokenizer_config.json": '{"added_tokens_decoder": {"3": {"id": 4}}}'},
            "is no token",
        ),
        ({"tokenizer_config.json": '{"added_tokens_decoder": 3}'}, "must be a mapping"),
        ({"chat_template.jinja": b"\xff"}, "chat_template.jinja cannot be read"),
        ({"generation_config.json": "3"}, "generation_config.json must hold"),
        ({"special_tokens_map.json": "no"}, "special_tokens_map.json cannot be read"),
    ],
)
def test_damaged_files_beside_it_are_one_line(files, says):
    path = save(tokenizer_layouts.byte_level("</s>"))
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        pathlib.Path(name).write_bytes(data)
    with pytest.raises(UsageError, match=says) as caught:
        load_tokenizer(path, "</s>")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.model": "sentencepiece", "tokenizer_config.json": "{}"},
        {"tokenizer_config.json": '{"tokenizer_class": "ByT5Tokenizer"}'},
        {
            "vocab.json": "{}",
            "merges.txt": "",
            "tokenizer_config.json": '{"tokenizer_class": "CLIPTokenizer"}',
        },
        {"tekken.json": "{}"},
    ],
    ids=["sentencepiece", "byt5", "clip", "tekken"],
)
def test_other_formats_are_refused_with_the_line_that_converts_them(files):
    for name, content in files.items():
        pathlib.Path(name).write_text(content)
    with pytest.raises(UsageError, match=r"tokenizer\.json is missing; .*save_pretr"):
        load_tokenizer("tokenizer.json", "</s>")


def test_a_directory_is_its_tokenizer():
    path = put("alone")
    one, other = (load_tokenizer(p, "<|endoftext|>") for p in (path, path.parent))
    assert isinstance(one, TextTokenizer) and one.sha256 == other.sha256


# Prompts.


def test_a_prompt_is_text_unless_it_is_parsed():
    tokenizer = load_tokenizer(put("llama3"), "<|eot_id|>")
    number = tokenizer.end_of_text
    assert number not in tokenizer.encode_prompt("a<|eot_id|>")
    assert number in tokenizer.encode_prompt("a<|eot_id|>", "parse")


def test_the_flag_is_known():
    told = run("-m", "kdjax.generate", "--help", check=False).stdout
    assert "parse_special_tokens" in told
