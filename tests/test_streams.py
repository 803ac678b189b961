"""Long texts are encoded in stretches, with the ids that they have as a whole."""

import functools
from collections import namedtuple

import hypothesis
import numpy as np
import pytest
import tokenizers
from etils import epath
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from kdjax.text import load_tokenizer, streams
from kdjax.text.encoding import Encoder

Piece = namedtuple("Piece", "text begins ends")
END = "<|endoftext|>"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SAMPLE = (
    "The theory of the thing, and the other 1234 things; 3.14159 is pi.\n"
    "def f(x):\n    return x  # naïve café 日本語 😀\n\n\tindented\r\n"
    "it's they'll ﬁne ℌ² a\u0301e\u0301 "
) * 20


def byte_level(split=None, normalizer=None, **options):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    plain = pre_tokenizers.ByteLevel(use_regex=split is None, **options)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([split, plain]) if split is not None else plain
    )
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer, trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )


def sentence_piece(*, model="bpe", normalizer=None, pre_tokenizer=None):
    """Returns a tokenizer as of Llama 2, with or without its words cut apart."""
    if model == "bpe":
        tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<unk>"], max_token_length=8
        )
    else:
        tokenizer = tokenizers.Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>"
        )
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer, trainer


def word_piece():
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["<unk>"]
    )


LLAMA2 = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
MAKERS = {
    "gpt2": functools.partial(byte_level, add_prefix_space=False),
    "gpt2 with a space before": functools.partial(byte_level, add_prefix_space=True),
    "llama3": functools.partial(
        byte_level,
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        add_prefix_space=False,
    ),
    "qwen": functools.partial(
        byte_level,
        pre_tokenizers.Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"),
        normalizers.NFC(),
        add_prefix_space=False,
    ),
    "smollm": functools.partial(
        byte_level, pre_tokenizers.Digits(individual_digits=True)
    ),
    "one word": functools.partial(
        byte_level,
        pre_tokenizers.Split(Regex(r"\z"), "isolated"),
        add_prefix_space=False,
    ),
    "llama2": functools.partial(sentence_piece, normalizer=LLAMA2),
    "metaspace": functools.partial(
        sentence_piece, pre_tokenizer=pre_tokenizers.Metaspace()
    ),
    "metaspace first": functools.partial(
        sentence_piece,
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
    ),
    "t5": functools.partial(
        sentence_piece,
        model="unigram",
        normalizer=normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
        ),
        pre_tokenizer=pre_tokenizers.Metaspace(),
    ),
    "stripped": functools.partial(
        sentence_piece,
        normalizer=normalizers.Sequence([normalizers.Strip(), normalizers.NFD()]),
        pre_tokenizer=pre_tokenizers.Whitespace(),
    ),
    "bert": word_piece,
}


@functools.cache
def library(name):
    tokenizer, trainer = MAKERS[name]()
    tokenizer.train_from_iterator([SAMPLE[:300]] * 2 + SAMPLE.split("\n"), trainer)
    tokenizer.add_special_tokens([END, AddedToken("<x y>", lstrip=True, rstrip=True)])
    return tokenizer


@pytest.fixture
def tokenizer(request, tmp_path):
    path = tmp_path / "tokenizer.json"
    library(request.param).save(str(path))
    return load_tokenizer(epath.Path(path), END)


WORDS = st.sampled_from(
    [
        *("the", "thing", " ", " the", "\n", "\n\n", "  ", "\r\n", "\t", "123456", "é"),
        *(
            "a\u0301",
            "\u0301",
            "😀",
            "👩‍🚀",
            "日本語",
            "'s",
            "'ll",
            "...",
            "<x y>",
            END,
            "ﬁ",
        ),
    ]
)
RUNS = st.builds(
    lambda word, times: word * times,
    st.sampled_from(["a", " ", "7", "\n", "ab", "the ", "x\n", "the\n\n", "é", "."]),
    st.sampled_from([1, 2, 3, 255, 256, 257, 700, 1500]),
)
TEXTS = st.lists(
    st.one_of(st.lists(WORDS, max_size=60).map("".join), RUNS), max_size=24
).map("".join)


def pieces_of(text, sizes, ends=True):
    """Cuts a text into pieces of sizes that repeat."""
    found, at = [], 0
    while at < len(text) or not found:
        size = sizes[len(found) % len(sizes)]
        found.append(
            Piece(text[at : at + size], not found, ends and at + size >= len(text))
        )
        at += size
    return found


@pytest.mark.parametrize("tokenizer", MAKERS, indirect=True)
def test_ids_in_pieces_are_those_of_the_whole_text(tokenizer, monkeypatch):
    monkeypatch.setattr(streams, "STRETCH", 400)
    monkeypatch.setattr(streams, "_BATCH", 3000)
    most = 0

    @hypothesis.settings(
        max_examples=25, deadline=None, database=None, derandomize=True
    )
    @hypothesis.given(
        st.lists(TEXTS, min_size=1, max_size=3),
        st.lists(st.integers(1, 900), min_size=1, max_size=4),
    )
    @hypothesis.example(["Some words of a line.\nAnother line.\n" * 200], [500])
    def check(texts, sizes):
        nonlocal most
        pieces = [piece for text in texts for piece in pieces_of(text, sizes)]
        found = list(streams.encode_stream(tokenizer, pieces))
        wholes = list(tokenizer.encode(texts))
        most = max(most, len(found) - len(texts))
        assert sum(part.begins for part in found) == len(texts)
        np.testing.assert_array_equal(
            np.concatenate([part.ids for part in found]), np.concatenate(wholes)
        )

    check()
    assert most > 3  # they were cut


@pytest.mark.parametrize("tokenizer", ["llama3", "one word"], indirect=True)
@pytest.mark.parametrize("unit", ["1", "123", "ACGTTGCA", "🙂", " "])
def test_one_word_of_many_stretches_is_not_cut_wrongly(tokenizer, unit, monkeypatch):
    monkeypatch.setattr(streams, "STRETCH", 1000)
    for shift in range(3):
        text = "x" * shift + unit * (20_000 // len(unit)) + " end"
        found = streams.encode_stream(tokenizer, pieces_of(text, [5000]))
        ids = np.concatenate([part.ids for part in found])
        np.testing.assert_array_equal(ids, next(tokenizer.encode([text])))


@pytest.mark.parametrize("tokenizer", ["gpt2", "llama2"], indirect=True)
def test_a_text_that_is_cut_off_has_no_end(tokenizer):
    text = SAMPLE * 80
    cut_off = pieces_of(text, [30_000], ends=False)
    whole = pieces_of("next", [10])
    parts = list(streams.encode_stream(tokenizer, [*cut_off, *whole, *cut_off]))
    ids = np.concatenate([part.ids for part in parts])
    first, second = tokenizer.encode([text, "next"])
    np.testing.assert_array_equal(ids, [*first[:-1], *second, *first[:-1]])
    assert sum(part.begins for part in parts) == 3 < len(parts)
    assert np.count_nonzero(ids == tokenizer.end_of_text) == 1


@pytest.mark.parametrize("tokenizer", ["gpt2"], indirect=True)
def test_a_long_text_is_never_encoded_at_once(tokenizer, monkeypatch):
    longest = 0

    def texts(self, texts, special_tokens):
        nonlocal longest
        longest = max(longest, *map(len, texts))
        return whole(self, texts, special_tokens)

    whole = Encoder.texts
    monkeypatch.setattr(Encoder, "texts", texts)
    text = SAMPLE * 500
    parts = list(streams.encode_stream(tokenizer, pieces_of(text, [1 << 23])))
    assert len(text) > 1_000_000 and 0 < longest < 150_000 and len(parts) > 8
