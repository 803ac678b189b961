"""Text to batches: nothing lost, nothing twice, nothing leaked, nothing done again."""

import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import pathlib
import platform
import signal
import sys
import sysconfig
import time
import types

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
import tokenizers
import urllib3
from etils import epath
from runs import run
from tensorflow_datasets.core import constants
from tensorflow_datasets.core.download import downloader

from kdjax.config import DataConfig, TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.data import (
    held_out_batches,
    open_corpus,
    prepare,
    training_batches,
    training_order,
)
from kdjax.data.documents import split_of
from kdjax.data.packing import pack
from kdjax.data.sizes import _key, measure
from kdjax.text import load_tokenizer
from kdjax.text.streams import Ids
from kdjax.text.tokenizer import train_tokenizer

ROOT = pathlib.Path(__file__).parents[1]
BYTES = TokenizerConfig(kind="bytes")

pytestmark = pytest.mark.usefixtures("home")


def files(pattern, **options):
    options = {"length": 16, "validation_fraction": 0.2} | options
    return DataConfig(source="files", pattern=pattern, **options)


def walk(config):
    return {name: list(split()) for name, split in open_corpus(config).splits.items()}


def names(documents):
    return {document.name for document in documents}


def numbered(count):
    """Returns rows that are recognised by their one token."""
    return [
        {"tokens": np.array([i], np.int32), "segments": np.ones(1, np.int32)}
        for i in range(count)
    ]


def numbers(batches):
    return [batch["tokens"][:, 0].tolist() for batch in batches]


def flatten(lists):
    return list(itertools.chain.from_iterable(lists))


# Packing.


@pytest.mark.parametrize("seed", range(8))
def test_packing_keeps_every_token_once_in_order_and_knows_its_document(seed):
    rng = np.random.default_rng(seed)
    length = int(rng.integers(2, 12))
    sizes = rng.integers(1, 3 * length, size=rng.integers(1, 20))
    documents = [rng.integers(1, 1000, size) for size in sizes]
    rows = list(pack(map(Ids, documents), length))
    tokens = np.concatenate([row["tokens"] for row in rows])
    segments = np.concatenate([row["segments"] for row in rows])

    total = sum(sizes)
    assert len(rows) == math.ceil(total / length)
    np.testing.assert_array_equal(tokens[:total], np.concatenate(documents))
    assert not tokens[total:].any() and not segments[total:].any()
    owner = np.repeat(np.arange(len(sizes)), sizes)
    for row in range(len(rows)):
        here = owner[row * length : (row + 1) * length]
        found = segments[row * length : row * length + len(here)]
        np.testing.assert_array_equal(found, here - here[0] + 1)


@pytest.mark.parametrize("seed", range(8))
def test_packing_in_pieces_is_packing_the_whole(seed):
    rng = np.random.default_rng(seed)
    prefix = [1000] * (seed % 2)
    length = int(rng.integers(len(prefix) + 1, 12))
    documents = [rng.integers(1, 1000, size) for size in rng.integers(0, 30, 20)]
    pieces = []
    for ids in documents:
        cuts = sorted(rng.integers(0, len(ids) + 1, rng.integers(0, 5)))
        parts = np.split(ids, cuts)
        pieces += [Ids(part, index == 0) for index, part in enumerate(parts)]
    whole, found = (
        list(pack(i, length, prefix)) for i in (map(Ids, documents), pieces)
    )
    np.testing.assert_equal(found, whole)


@pytest.mark.parametrize("seed", range(8))
def test_every_piece_begins_with_the_prefix_and_no_token_is_lost(seed):
    rng = np.random.default_rng(seed)
    prefix = [1000, 1001][: 1 + seed % 2]
    length = int(rng.integers(len(prefix) + 1, 12))
    documents = [rng.integers(1, 1000, size) for size in rng.integers(1, 30, 20)]
    rows = list(pack(map(Ids, documents), length, prefix))
    rest = []
    for row in rows:
        for segment in range(1, row["segments"].max() + 1):
            ids = row["tokens"][row["segments"] == segment].tolist()
            assert ids[: len(prefix)] == prefix
            rest.append(ids[len(prefix) :])
            assert rest[-1]
    assert flatten(rest) == np.concatenate(documents).tolist()
    for row in rows[:-1]:  # no place is left over where an id would have fitted
        assert (row["segments"] == 0).sum() <= len(prefix)


# Corpora.


def test_what_is_held_out_depends_on_the_name_alone():
    def held_out(fraction, test=0.0, split="validation"):
        config = DataConfig(validation_fraction=fraction, test_fraction=test)
        return {name for name in candidates if split_of(name, config) == split}

    candidates = [f"directory/{number}.md" for number in range(3_000)]
    assert 100 < len(held_out(0.05)) < 200
    assert held_out(0.05) < held_out(0.1)
    assert not held_out(0.0) and not held_out(0.05, split="test")
    assert held_out(0.05, 0.1) == held_out(0.05)
    assert held_out(0.05, 0.1, "test") == held_out(0.15) - held_out(0.05)


def test_a_new_file_moves_no_other_one(texts):
    before = walk(files(texts))
    pathlib.Path("texts/new.txt").write_text("new")
    after = walk(files(texts))
    assert before["train"] and before["validation"]
    for split, documents in before.items():
        assert names(documents) == names(after[split]) - {"texts/new.txt:0"}


def paragraphs(count):
    return "".join(
        f"paragraph {number} of many\nand more\n\n" for number in range(count)
    )


@pytest.mark.parametrize(
    ("written", "options"),
    [
        ({f"{number}.txt": paragraphs(9) for number in range(99)}, {}),
        ({f"{number}.txt": paragraphs(9) for number in range(19)}, {}),
        ({"a.txt": paragraphs(900), "b.txt": paragraphs(30_000)}, {}),
        ({"a.txt": paragraphs(900)}, {"documents": "blank_lines"}),
        ({"a.jsonl": '{"text": "some words"}\n' * 500}, {}),
    ],
    ids=["files", "few files", "stretches", "paragraphs", "lines"],
)
def test_a_test_split_takes_nothing_from_the_validation_split(home, written, options):
    for name, text in written.items():
        (home / name).write_text(text)
    texts = {}
    for fraction in (0.0, 0.2):
        splits = walk(files("*", test_fraction=fraction, **options))
        texts[fraction] = {
            name: "".join(document.text for document in found)
            for name, found in splits.items()
        }
    without, found = texts.values()
    assert [*without] == ["train", "validation"]
    assert [*found] == ["train", "validation", "test"]
    assert found["validation"] == without["validation"]
    assert len(found["train"]) + len(found["test"]) == len(without["train"])
    assert 0.1 < len(found["test"]) / sum(map(len, found.values())) < 0.3
    by_split = {name: {d.name for d in each} for name, each in splits.items()}
    assert sum(map(len, by_split.values())) == len(set().union(*by_split.values()))


def test_the_standard_library_s_splits_share_nothing():
    splits = walk(DataConfig())
    train, validation, prose = map(names, splits.values())
    assert list(splits) == ["train", "validation", "prose"]
    assert len(train) > 500 and len(validation) > 10 and len(prose) > 50
    assert not train & validation
    parts = {part for name in train | validation for part in name.split("/")}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "pydoc_data"}
    everything = "".join(document.text for document in splits["train"])
    assert not [topic.name for topic in splits["prose"] if topic.text in everything]


@pytest.mark.parametrize("name", ["a.txt", "shakespeare.md", "corpus.txt", "x.md"])
def test_one_file_of_a_megabyte_still_has_a_held_out_split(name):
    pathlib.Path(name).write_text("All the world's a stage. " * 42_000)
    splits = walk(files(name, validation_fraction=0.05))
    sizes = {name: sum(len(d.text) for d in split) for name, split in splits.items()}
    assert sum(sizes.values()) == 25 * 42_000
    assert 0 < sizes["validation"] < 0.15 * sizes["train"]


def test_a_pattern_that_matches_nothing_names_itself_and_the_place(home):
    pathlib.Path("a.pdf").write_text("")
    with pytest.raises(
        UsageError, match=r"config\.data\.pattern = '\*' matches no"
    ) as e:
        open_corpus(files("*"))
    assert str(home) in str(e.value)


@pytest.mark.parametrize("bad", ["latin.txt", "directory.md"])
def test_an_unreadable_file_is_refused_by_name_or_skipped_and_counted(texts, bad):
    if bad == "latin.txt":
        pathlib.Path("texts", bad).write_bytes("naïve".encode("latin-1"))
    else:
        pathlib.Path("texts", bad).mkdir()
    with pytest.raises(UsageError, match=f"texts/{bad} .*'skip'"):
        prepare(files("texts/*"), BYTES, epath.Path("cache"))
    skipping = files("texts/*", unreadable="skip")
    prepared = prepare(skipping, BYTES, epath.Path("cache"))
    assert prepared.info["skipped_files"] == 1
    assert sum(s["documents"] for s in prepared.info["splits"].values()) == 40


# tensorflow-datasets.


class KdjaxPoems(tfds.core.GeneratorBasedBuilder):
    """A prepared data set, as a user may have one."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"poem": tfds.features.Text(), "year": np.int64}
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for year in range(100):
            yield year, {"poem": f"été {year}", "year": year}


@pytest.fixture
def tfds_home(home, monkeypatch):
    """A place without data sets or network; returns the attempts to use the latter."""
    attempts = []

    def refuse(address, *_, **__):
        attempts.append(address)
        assert len(attempts) == 1, "tried again"
        raise OSError("Network is unreachable")

    monkeypatch.setattr(constants, "DATA_DIR", str(home / "tfds"))
    monkeypatch.setattr(downloader, "MAX_RETRIES", downloader.MAX_RETRIES)
    monkeypatch.setattr(urllib3.util.connection, "create_connection", refuse)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return attempts


@pytest.fixture
def poems(home, tfds_home):
    builder = KdjaxPoems(data_dir=home / "tfds", file_format="array_record")
    builder.download_and_prepare()
    return DataConfig(source="tfds:kdjax_poems", text_field="poem")


def test_a_prepared_tfds_data_set_is_split_and_read_as_text(poems):
    splits = walk(dataclasses.replace(poems, validation_fraction=0.2))
    train, validation = map(names, splits.values())
    assert not train & validation
    texts = sorted(d.text for d in splits["train"] + splits["validation"])
    assert texts == sorted(f"été {year}" for year in range(100))


@pytest.mark.parametrize(
    ("stored", "held_out", "tested"),
    [
        (["train", "validation", "test"], {"validation"}, {"test"}),
        (["train", "validation"], {"validation"}, {"train"}),
        (["train", "test"], {"test"}, {"train"}),
        (["train"], {"train"}, {"train"}),
    ],
    ids=len,
)
def test_the_test_split_is_a_stored_one_if_the_validation_split_is_another(
    monkeypatch, stored, held_out, tested
):
    features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
    builder = types.SimpleNamespace(
        info=types.SimpleNamespace(features=features, splits=stored),
        as_data_source=lambda split: [{"text": split.encode()}] * 200,
    )
    monkeypatch.setattr(
        "kdjax.data.tfds_text._tfds_builder", lambda name, allow_download: builder
    )
    config = DataConfig("tfds:some", validation_fraction=0.2)
    without = walk(config)
    found = walk(dataclasses.replace(config, test_fraction=0.2))
    assert found["validation"] == without["validation"]
    assert {d.text for d in found["validation"]} == held_out
    assert {d.text for d in found["test"]} == tested
    names_of = [names(documents) for documents in found.values()]
    assert sum(map(len, names_of)) == len(set().union(*names_of)) == 200 * len(stored)
    if tested == {"test"}:
        assert found["train"] == without["train"]


class KdjaxScraps(tfds.core.GeneratorBasedBuilder):
    """Texts in groups, some of them missing or not UTF-8, one very long."""

    VERSION = tfds.core.Version("1.0.0")
    TEXTS = ("one", b"caf\xe9", None, "long " * 50_000)

    def _info(self):
        features = {
            "translation": tfds.features.Translation(["en", "de"]),
            "raw": tfds.features.Text(optional=True),
            "label": tfds.features.Tensor(shape=(), dtype=np.str_),
        }
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(
            builder=self, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples() for name in ("train", "test")}

    def _generate_examples(self):
        for index, text in enumerate(self.TEXTS):
            groups = {"en": f"en {index}", "de": f"de {index}"}
            yield index, {"translation": groups, "raw": text, "label": f"label {index}"}


@pytest.fixture
def scraps(home, tfds_home):
    builder = KdjaxScraps(data_dir=home / "tfds", file_format="array_record")
    builder.download_and_prepare()
    return DataConfig(source="tfds:kdjax_scraps", text_field="raw")


@pytest.mark.parametrize(
    ("field", "first"),
    [("translation.en", "en 0"), ("translation/de", "de 0"), ("label", "label 0")],
)
def test_features_in_groups_and_strings_are_texts(scraps, field, first):
    splits = walk(dataclasses.replace(scraps, text_field=field))
    assert [split[0].text for split in splits.values()] == [first] * 2
    with pytest.raises(UsageError, match=r"has: translation.en, translation.de, raw"):
        open_corpus(dataclasses.replace(scraps, text_field="translation"))


def test_examples_without_text_are_refused_by_number_or_skipped(scraps):
    says = r"kdjax_scraps: example 1 of train has bytes that are not UTF-8.*'skip'"
    with pytest.raises(UsageError, match=says):
        walk(scraps)
    skipping = dataclasses.replace(scraps, unreadable="skip")
    splits = walk(skipping)
    for split in splits.values():
        assert [document.text for document in split] == ["one", "long " * 50_000]
    prepared = prepare(
        dataclasses.replace(skipping, length=1024), BYTES, epath.Path("cache")
    )
    assert prepared.info["skipped_records"] == 4


@pytest.mark.parametrize("field", ["text", "year"])
def test_a_feature_that_is_no_text_is_refused_with_those_there_are(poems, field):
    config = dataclasses.replace(poems, text_field=field)
    with pytest.raises(UsageError, match=rf"text_field = '{field}'.*poem"):
        walk(config)


@pytest.mark.parametrize(
    ("name", "allow_download", "says", "attempts"),
    [
        ("imdb_reviews", False, "allow_download = True", 0),
        ("imdb_reviews", True, "cannot download 'imdb_reviews'", 1),
        ("no_such_set", False, "no tfds data set 'no_such_set'", 0),
        ("no_such_set", True, "no tfds data set 'no_such_set'", 0),
    ],
)
def test_a_tfds_data_set_that_is_not_there_is_refused_at_once(
    tfds_home, name, allow_download, says, attempts
):
    config = DataConfig(source=f"tfds:{name}", allow_download=allow_download)
    begin = time.monotonic()
    with pytest.raises(UsageError) as caught:
        open_corpus(config)
    assert time.monotonic() - begin < 3
    message = str(caught.value)
    assert says in message and "\n" not in message
    assert "'stdlib'" in message and "'files'" in message
    assert len(tfds_home) == attempts
    if attempts:
        assert downloader.MAX_RETRIES == 0  # a server in trouble is not retried either


def test_a_proxy_that_forbids_the_download_is_one_line_too(tfds_home, monkeypatch):
    def forbid(*_, **__):
        response = requests.Response()
        response.status_code, response.raw = 403, io.BytesIO()
        return response

    monkeypatch.setattr(requests.Session, "get", forbid)
    with pytest.raises(UsageError, match=r"403.*'stdlib'"):
        open_corpus(DataConfig(source="tfds:imdb_reviews", allow_download=True))


# Tokenizers.


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain\r\n\ttext  with   spaces ",
        "é ß 汉字 😀 👩‍🚀 \u2028 \ufeff",
        "\x00\x01\x7f\x80",
        "".join(map(chr, range(0x800))),
        "def f(x):\n    return x<|endoftext|>",
    ],
    ids=range(6),
)
def test_every_text_comes_back_from_its_ids(kind, text):
    config = TokenizerConfig(kind=kind, vocab_size=300)
    tokenizer = train_tokenizer(["the theory of the thing"] * 9, config)
    (ids,) = tokenizer.encode([text])
    assert tokenizer.tokenizer.decode(ids[:-1], skip_special_tokens=False) == text
    assert ids[-1] == tokenizer.end_of_text
    assert ids.max() < tokenizer.vocab_size
    if kind == "bytes":
        assert tokenizer.vocab_size == 257
        if config.end_of_text not in text:
            assert len(ids) == len(text.encode()) + 1


def test_bpe_is_a_function_of_its_text_and_merges_something():
    def train(*texts):
        return train_tokenizer(texts, TokenizerConfig(vocab_size=300))

    texts = [f"{n} bottles of beer on the wall, {n} bottles" for n in range(200)]
    one, same, other = train(*texts), train(*texts), train(*texts[:100], "x" * 999)
    assert one.sha256 == same.sha256 != other.sha256
    (ids,) = one.encode(texts[:1])
    assert len(ids) < len(texts[0]) / 3


def test_more_texts_than_one_batch_keep_their_order():
    tokenizer = train_tokenizer([], BYTES)
    texts = [str(number) for number in range(1000)]
    decoded = [tokenizer.tokenizer.decode(ids[:-1]) for ids in tokenizer.encode(texts)]
    assert decoded == texts


def test_a_tokenizer_file_is_the_tokenizer_that_was_saved(home):
    saved = train_tokenizer(["aaa bbb"] * 9, TokenizerConfig(vocab_size=260))
    path = epath.Path(home / "tokenizer.json")
    saved.save(path)
    loaded = load_tokenizer(path, "<|endoftext|>")
    assert (loaded.sha256, loaded.end_of_text) == (saved.sha256, saved.end_of_text)
    np.testing.assert_equal([*loaded.encode(["é aaa"])], [*saved.encode(["é aaa"])])
    with pytest.raises(
        UsageError, match=r"tokenizer\.json has no token '</s>'.*end_of_"
    ):
        load_tokenizer(path, "</s>")


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_file_that_is_no_tokenizer_is_named(home, content):
    path = epath.Path(home / "t.json")
    if content is not None:
        path.write_text(content)
    with pytest.raises(
        UsageError, match=r"t\.json is not a readable tokenizer"
    ) as caught:
        load_tokenizer(path, "<|endoftext|>")
    assert "\n" not in str(caught.value)


# Preparation.


class Counter:
    """Counts the documents that are tokenised, and may fail in the middle."""

    def __init__(self, fail_at=None):
        self.count, self.fail_at = 0, fail_at

    def __call__(self, documents, split, size):
        for document in documents:
            self.count += 1
            if self.count == self.fail_at:
                raise RuntimeError("killed")
            yield document


def prepared_as(config, tokenizer=BYTES, fail_at=None):
    counter = Counter(fail_at)
    prepared = prepare(config, tokenizer, epath.Path("cache"), track=counter)
    return prepared, counter.count


def content(prepared):
    return {
        split: [(row["tokens"].tolist(), row["segments"].tolist()) for row in rows]
        for split, rows in prepared.splits.items()
    }


def test_tokenising_is_done_once_per_text_tokenizer_and_length(texts):
    first, count = prepared_as(files(texts))
    assert count == 40
    again, count = prepared_as(files(texts))
    assert count == 0
    assert again.info == first.info
    assert content(again) == content(first)
    for config, tokenizer in (
        (files(texts, length=24), BYTES),
        (files(texts), TokenizerConfig(vocab_size=270)),
        (files(texts, validation_fraction=0.3), BYTES),
    ):
        assert prepared_as(config, tokenizer)[1] == 40
    pathlib.Path("texts/7.txt").write_text("another seven")
    changed, count = prepared_as(files(texts))
    assert count == 40
    assert changed.info["splits"] != first.info["splits"]
    assert prepared_as(files(texts, length=24))[1] == 40


def reads(config, monkeypatch):
    """Returns how many splits are read to prepare a corpus."""
    count = []

    def counting(documents, spelled):
        count.append(1)
        return measure(documents, spelled)

    monkeypatch.setattr("kdjax.data.sizes.measure", counting)
    prepared, _ = prepared_as(config)
    return len(count), prepared.info


def age(seconds):
    for path in pathlib.Path("texts").iterdir():
        changed = path.stat().st_mtime - seconds
        os.utime(path, (changed, changed))


def test_files_that_did_not_change_are_not_read_again(texts, monkeypatch):
    age(10)
    count, info = reads(files(texts), monkeypatch)
    assert count == 2
    assert reads(files(texts), monkeypatch) == (0, info)
    assert reads(files(texts, validation_fraction=0.3), monkeypatch)[0] == 2
    # Of the same length, but written later.
    text = pathlib.Path("texts/7.txt").read_text()
    pathlib.Path("texts/7.txt").write_text(text.replace("7", "8"))
    count, changed = reads(files(texts), monkeypatch)
    assert count == 2
    assert changed["splits"] != info["splits"]


def test_sizes_belong_to_a_test_fraction_and_to_older_versions_without_one(monkeypatch):
    monkeypatch.setattr(os, "getcwd", lambda: "/home/user")
    found = [
        _key(DataConfig(test_fraction=x), ({"<s>"}, None), [("a.txt", 1, 2)])
        for x in (0.0, 0.1, 0.2)
    ]
    assert found[0] == "80fc1f85263a185c"
    assert len({*found}) == 3


def test_files_that_may_still_change_are_read_again(texts, monkeypatch):
    """Two writes within the clock's resolution look alike."""
    assert [reads(files(texts), monkeypatch)[0] for _ in range(2)] == [2, 2]


def test_damaged_sizes_are_measured_again(texts, monkeypatch):
    age(10)
    _, info = reads(files(texts), monkeypatch)
    (kept,) = pathlib.Path("cache/sizes").iterdir()
    for damage in (b"{", b"[]", kept.read_bytes().replace(b'"bytes"', b'"bites"')):
        kept.write_bytes(damage)
        assert reads(files(texts), monkeypatch)[1] == info


def test_what_was_skipped_is_remembered_with_the_sizes(texts, monkeypatch):
    pathlib.Path("texts/7.txt").write_bytes(b"\xff\xfe\xfa")
    age(10)
    config = files(texts, unreadable="skip")
    first, second = (reads(config, monkeypatch)[1] for _ in range(2))
    assert first == second
    assert second["skipped_files"] == 1


def test_the_standard_library_s_rows_and_their_key_stay_what_they_are(monkeypatch):
    """Cached rows and runs in progress belong to them."""
    for number in range(40):
        path = pathlib.Path(f"library/package{number % 3}/module{number}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        line = f"é = {number}\r\nprint('endoftext')\n\n\n"
        path.write_bytes((line * (3 + 900 * (number == 7))).encode())
    pathlib.Path("library/latin.py").write_bytes(b"caf\xe9")
    topics = types.SimpleNamespace(
        topics={"if": "The if statement", "else": "x" * 9000}
    )
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", topics)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": "library"})
    monkeypatch.setattr(platform, "python_version", lambda: "3.11.7")
    config = DataConfig(length=32, validation_fraction=0.2)
    prepared, count = prepared_as(config, TokenizerConfig(vocab_size=300))
    assert count == 42
    (key,) = os.listdir("cache/rows")
    sizes = {
        split: [size[k] for k in ("bytes", "documents", "largest_id", "rows", "tokens")]
        for split, size in prepared.info["splits"].items()
    }
    found = json.dumps([sizes, content(prepared)], sort_keys=True)
    assert (key, hashlib.sha256(found.encode()).hexdigest()) == (
        "bfec761210c4f18e",
        "f6eba50d7c2b26aa5509642c037d2a2f3e7088a32df13de27c464c0d56467f81",
    )


def test_rows_and_their_description_are_right(texts):
    prepared, _ = prepared_as(files(texts))
    assert set(prepared.splits) == {"train", "validation"}
    for split, documents in walk(files(texts)).items():
        ids = prepared.tokenizer.encode(d.text for d in documents)
        expected = [
            (r["tokens"].tolist(), r["segments"].tolist())
            for r in pack(map(Ids, ids), 16)
        ]
        assert content(prepared)[split] == expected
        info = prepared.info["splits"][split]
        size = sum(len(document.text.encode()) for document in documents)
        assert info["bytes"] == size
        assert info["documents"] == len(documents)
        assert info["tokens"] == size + len(documents)  # one end of text for each
        assert info["rows"] == len(expected) == len(prepared.splits[split])
    hashes = {info["sha256"] for info in prepared.info["splits"].values()}
    assert len(hashes) == 2


ALPHABET = {letter: number for number, letter in enumerate("ACGT")}
SPECIAL = [("<s>", 4), ("</s>", 5)]


@pytest.mark.parametrize(
    ("single", "prefix"),
    [("$A", ()), ("$A </s>", ()), ("<s> $A", (4,)), ("<s> $A </s>", (4,))],
)
@pytest.mark.parametrize("kind", ["BPE", "WordLevel", "Unigram"])
def test_how_texts_begin_is_found_in_any_tokenizer(home, kind, single, prefix):
    """Also where not every letter has an id, or where that is even a mistake."""
    model = {
        "BPE": tokenizers.models.BPE(vocab=ALPHABET, merges=[]),
        "WordLevel": tokenizers.models.WordLevel(ALPHABET),
        "Unigram": tokenizers.models.Unigram([(letter, 0.0) for letter in ALPHABET]),
    }[kind]
    library = tokenizers.Tokenizer(model)
    library.add_special_tokens([token for token, _ in SPECIAL])
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single=single, special_tokens=SPECIAL
    )
    library.save("t.json")
    assert load_tokenizer(epath.Path("t.json"), "</s>").prefix == prefix


def test_a_beginning_that_rows_cannot_have_is_refused(texts):
    library = train_tokenizer([], BYTES).tokenizer
    for single, ids, word in (
        ("<|endoftext|> <|endoftext|> $A", 0, "begins texts with 2 ids"),
        ("<|endoftext|> $A", 5000, "the id 5000"),
    ):
        library.post_processor = tokenizers.processors.TemplateProcessing(
            single=single, special_tokens=[("<|endoftext|>", ids)]
        )
        library.save("t.json")
        with pytest.raises(UsageError, match=word):
            prepared_as(files(texts), TokenizerConfig(kind="file", path="t.json"))


def test_rows_begin_as_the_tokenizer_begins_a_text(texts):
    library = train_tokenizer([], BYTES).tokenizer
    library.add_special_tokens(["<bos>"])
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 257)]
    )
    library.save("begins.json")
    file = TokenizerConfig(kind="file", path="begins.json")
    plain, prepared = prepared_as(files(texts))[0], prepared_as(files(texts), file)[0]
    for split, rows in prepared.splits.items():
        for row in rows:
            tokens, segments = row["tokens"], row["segments"]
            begins = np.diff(segments, prepend=0) > 0
            np.testing.assert_array_equal(tokens == 257, begins)
        size, less = prepared.info["splits"][split], plain.info["splits"][split]
        assert size["tokens"] == less["tokens"]  # it is never predicted
        assert (size["largest_id"], less["largest_id"] < 257) == (257, True)
    assert prepared.info["tokenizer"]["sha256"] != plain.info["tokenizer"]["sha256"]
    with pytest.raises(UsageError, match=r"length = 2 leaves no room"):
        prepared_as(files(texts, length=2), file)
    tokenizer = prepared.info["tokenizer"]
    assert tokenizer["sha256"] == prepared.tokenizer.sha256
    assert json.loads(json.dumps(prepared.info)) == prepared.info  # for report.json


def test_bits_per_byte_of_a_uniform_guess(texts):
    prepared, _ = prepared_as(files(texts))
    info = prepared.info["splits"]["validation"]
    bits = math.log2(257) * (info["bytes"] + info["documents"]) / info["bytes"]
    found = prepared.bits_per_byte(math.log(257), "validation")
    assert type(found) is float  # as one from JSON, not numpy's
    assert found == pytest.approx(bits, rel=1e-12)


@pytest.mark.parametrize("fail_at", [1, 20, 39])
def test_a_preparation_that_fails_half_way_is_not_taken_for_whole(texts, fail_at):
    with pytest.raises(RuntimeError, match="killed"):
        prepared_as(files(texts), fail_at=fail_at)
    prepared, count = prepared_as(files(texts))
    assert count == 40
    assert sum(s["documents"] for s in prepared.info["splits"].values()) == 40


def test_a_preparation_that_is_killed_half_way_is_not_taken_for_whole(texts):
    program = """
import os, signal, sys
from etils import epath
from kdjax.config import DataConfig, TokenizerConfig
from kdjax.data import prepare

def track(documents, split, size):
    for document in documents:
        yield document
    if split == "validation":
        os.kill(os.getpid(), signal.SIGKILL)

data = DataConfig("files", sys.argv[1], length=16, validation_fraction=0.2)
prepare(data, TokenizerConfig(kind="bytes"), epath.Path("cache"), track=track)
"""
    killed = run("-c", program, texts, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(pathlib.Path("cache/rows").rglob("*array_record*"))  # it had begun
    _, count = prepared_as(files(texts))
    assert count == 40


def test_the_store_of_rows_prints_nothing_to_stdout(texts, capsys):
    """As tensorflow-datasets does, which thinks that they are downloaded."""
    prepare(files(texts), BYTES, epath.Path("cache"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("pattern", "fractions"),
    [
        ("texts/7.txt", {"validation_fraction": 0.0}),
        ("texts/*.txt", {"test_fraction": 1e-4}),
    ],
)
def test_a_split_without_text_is_refused(texts, pattern, fractions):
    (key,) = fractions
    split = key.removesuffix("_fraction")
    words = rf"the {split} split .* is empty; raise config\.data\.{key} or provide"
    with pytest.raises(UsageError, match=words):
        prepare(files(pattern, **fractions), BYTES, epath.Path("cache"))


# Batches.


@pytest.mark.parametrize(("count", "size"), [(40, 8), (13, 4), (3, 8)])
def test_every_epoch_has_every_row_once_in_an_order_of_its_own(count, size):
    stream = training_batches(numbered(count), batch_size=size, seed=3)
    flat = flatten(numbers(itertools.islice(stream, 4 * count)))
    epochs = [flat[i : i + count] for i in range(0, len(flat) - count, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count > 3:  # three rows have six orders only
        assert len({(*range(count),), *map(tuple, epochs)}) == 1 + len(epochs)
    else:
        assert len(set(map(tuple, epochs))) > 1


def test_the_order_follows_from_the_seed_alone():
    def start(seed):
        stream = training_batches(numbered(40), batch_size=8, seed=seed)
        return numbers(itertools.islice(stream, 10))

    assert start(3) == start(3) != start(4)


@pytest.mark.parametrize("fraction", [1.0, 0.3])
@pytest.mark.parametrize("count", [2, 4, pytest.param(8, marks=pytest.mark.slow)])
def test_processes_together_see_the_batches_that_one_would_see(count, fraction):
    def stream(mine=None):
        batches = training_batches(
            numbered(29), batch_size=8, seed=5, fraction=fraction, mine=mine
        )
        return numbers(itertools.islice(batches, 12))

    together = [[None] * 8 for _ in range(12)]
    for index in range(count):  # each has several blocks that do not touch
        mine = range(index, 8, count)
        for batch, rows in zip(together, stream(mine), strict=True):
            batch[index::count] = rows
    assert together == stream()
    order = training_order(29, batch_size=8, seed=5, fraction=fraction)
    assert [order[n].tolist() for n in range(12)] == together


def test_a_stream_goes_on_from_its_state_with_the_same_batches(texts):
    rows = prepared_as(files(texts))[0].splits["train"]

    def stream():
        return training_batches(rows, batch_size=8, seed=1)

    straight = stream()
    for _ in range(len(rows) // 8 + 3):  # into the second epoch
        next(straight)
    state = json.loads(json.dumps(straight.get_state()))
    resumed = stream()
    next(resumed)
    resumed.set_state(state)
    for _ in range(3):
        expected, found = next(straight), next(resumed)
        np.testing.assert_equal(found, expected)


@pytest.mark.parametrize(("fraction", "kept"), [(0.2, 8), (0.5, 20), (0.001, 1)])
def test_a_fraction_is_the_same_rows_in_every_epoch(fraction, kept):
    def epochs(seed):
        stream = training_batches(
            numbered(40), batch_size=1, seed=seed, fraction=fraction
        )
        flat = flatten(numbers(itertools.islice(stream, 5 * kept)))
        return [flat[i : i + kept] for i in range(0, len(flat), kept)]

    first, *later = epochs(seed=1)
    assert len(set(first)) == kept
    assert all(sorted(epoch) == sorted(first) for epoch in later)
    assert kept == 1 or len(set(map(tuple, [first, *later]))) > 1
    assert any(set(epochs(seed)[0]) != set(first) for seed in range(2, 6))


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(("rows", "size"), [(13, 4), (16, 8), (3, 8)])
def test_held_out_rows_come_once_and_padding_has_no_segment(rows, size, count):
    parts = [
        list(held_out_batches(numbered(rows), batch_size=size, mine=mine))
        for mine in np.arange(size).reshape(count, -1).tolist()
    ]
    assert {len(part) for part in parts} == {math.ceil(rows / size)}
    assert {len(batch["tokens"]) for part in parts for batch in part} == {size // count}
    seen = []
    for batches in zip(*parts, strict=True):
        for batch in batches:
            real = batch["segments"][:, 0] > 0
            seen += batch["tokens"][real, 0].tolist()
            assert not batch["tokens"][~real].any()
    assert seen == list(range(rows))


@pytest.mark.parametrize("limit", [1, 7, 60, 99, 100, 500])
def test_a_limit_takes_rows_from_everywhere(limit):
    batches = held_out_batches(numbered(100), batch_size=4, limit=limit)
    padded = flatten(numbers(batches))
    chosen = padded[: min(limit, 100)]
    assert not any(padded[len(chosen) :])
    assert len(set(chosen)) == len(chosen)
    assert chosen == sorted(chosen)
    gaps = np.diff([*chosen, 100])
    assert gaps.max() <= math.ceil(100 / limit)
