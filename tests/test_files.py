"""Files as they are found in the world: read as text, or named with what is wrong."""

import bz2
import gzip
import itertools
import json
import lzma
import os
import pathlib
import random
import sys

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath
from hypothesis import strategies as st

from kdjax.config import DataConfig, TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.data import json_files, open_corpus, paragraphs, prepare, reading
from kdjax.data.documents import Digest, Document, Spelled
from kdjax.data.json_stream import stream_text
from kdjax.data.reading import Unreadable
from kdjax.data.sizes import measure
from kdjax.data.stretches import stretches

BYTES = TokenizerConfig(kind="bytes")

pytestmark = pytest.mark.usefixtures("home")


def config(pattern, **options):
    options = {"length": 16, "validation_fraction": 0.2} | options
    return DataConfig(source="files", pattern=pattern, **options)


def documents(pattern, **options):
    """Returns the whole documents of both splits, in order, by name."""
    found = {}
    for walk in open_corpus(config(pattern, **options)).splits.values():
        for name, text, begins, _ends in walk():
            assert begins == (name not in found)
            found[name] = found.get(name, "") + text
    return found


def texts(pattern, **options):
    return sorted(documents(pattern, **options).values())


def write(name, content):
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def refusal(pattern, **options):
    with pytest.raises(UsageError) as caught:
        documents(pattern, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
}
LINES = '{"text": "one"}\n\n{"text": "two", "id": 2}\n'
ARRAY = '[{"text": "one"},\n {"text": "two", "id": 2}]'


# What is read.


def test_the_kinds_of_files_are_read_each_in_its_way(capsys):
    write("corpus/a.txt", "plain é")
    write("corpus/deep/b.MD", "# mark")
    write("corpus/c.jsonl", LINES)
    write("corpus/d.py", "no_text = True")
    expected = ["# mark", "one", "plain é", "two"]
    assert texts("corpus/**/*") == expected
    assert "left out: corpus/d.py" in capsys.readouterr().err
    assert texts("corpus") == expected  # a directory is all that is in it


@pytest.mark.parametrize("packing", ["", *PACKERS])
@pytest.mark.parametrize(
    ("suffix", "content", "expected"),
    [
        (".txt", "one\ntwo\n", ["one\ntwo\n"]),
        (".md", "\ufeffone", ["one"]),
        (".JSONL", LINES, ["one", "two"]),
        (".ndjson", "\ufeff" + LINES, ["one", "two"]),
        (".json", LINES, ["one", "two"]),
        (".json", "\ufeff \n" + ARRAY + "\n", ["one", "two"]),
        (".json", "[]", []),
        (".json", "", []),
    ],
)
def test_packed_or_not(packing, suffix, content, expected):
    pack = PACKERS.get(packing, bytes)
    write(f"a{suffix}{packing.upper()}", pack(content.encode()))
    assert texts("a.*") == expected


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
def test_archives_of_several_members_are_read_to_the_end(packing):
    pack = PACKERS[packing]
    halves = b'{"text": "one"}\n{"te', b'xt": "two"}\n'
    write(f"a.jsonl{packing}", pack(halves[0]) + pack(halves[1]))
    assert texts("a.*") == ["one", "two"]


def test_line_ends_are_newlines_and_the_bytes_are_those_of_the_rows():
    write("a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\nfour")
    write("b.jsonl", b'{"text": "one\\r\\ntwo"}\r\n')
    found = documents("*", validation_fraction=0.5)
    assert sorted(found.values()) == ["one\ntwo\nthree\nfour", "one\r\ntwo"]
    write("c.jsonl", '{"text": "x"}\n' * 50)
    prepared = prepare(config("*"), BYTES, epath.Path("cache"))
    for split in prepared.info["splits"].values():
        assert split["tokens"] == split["bytes"] + split["documents"]


def test_line_separators_inside_a_json_string_do_not_end_the_line():
    # JSON lets them stand unescaped, and many a tool writes them so.
    text = "a\u2028b\u2029c\x85d"
    line = json.dumps({"text": text}, ensure_ascii=False)
    write("a.jsonl", line + "\n")
    assert texts("a.jsonl") == [text]


@pytest.mark.parametrize(
    ("field", "record"),
    [
        ("body", {"text": 3, "body": "x"}),
        ("a.b", {"a": {"b": "x"}}),
        ("a.b", {"a.b": "x", "a": {"b": "y"}}),
        ("a.b.c", {"a": {"b.c": "x"}}),
        ("a.b.c", {"a.b": {"c": "x"}}),
        ("text", {"id": 10**4999, "nan": float("nan"), "text": "x"}),
    ],
)
def test_a_field_is_found_by_its_name(field, record):
    sys.set_int_max_str_digits(0)
    try:
        line = json.dumps(record)
    finally:
        sys.set_int_max_str_digits(4300)
    write("a.jsonl", line)
    write("b.json", f"[{line}]")
    assert texts("*", text_field=field) == ["x", "x"]


def test_columns_of_parquet_files_are_read():
    table = pa.table(
        {
            "text": ["one", "two", None],
            "ids": [[1], [2], [3]],
            "meta": [{"title": t} for t in "abc"],
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "flat.name": pa.array(["p", "q", "r"], pa.large_string()),
        }
    )
    pq.write_table(table, "a.parquet", row_group_size=2)
    assert texts("a.*", unreadable="skip") == ["one", "two"]
    assert texts("a.*", text_field="meta.title") == ["a", "b", "c"]
    assert texts("a.*", text_field="kind") == ["x", "x", "y"]
    assert texts("a.*", text_field="flat.name") == ["p", "q", "r"]
    assert "a.parquet row 3 has null in 'text'" in refusal("a.*")
    assert "list<" in refusal("a.*", text_field="ids")
    assert "struct<" in refusal("a.*", text_field="meta")
    assert "no column 'txt'" in (found := refusal("a.*", text_field="txt"))
    assert "'text', 'kind', 'flat.name'" in found
    write("a.parquet", b"PAR1 but no more")
    assert "a.parquet cannot be read as Parquet" in refusal("a.*")


def test_paragraphs_may_be_the_documents(monkeypatch):
    monkeypatch.setattr(paragraphs, "PIECE", 4)
    monkeypatch.setattr(reading, "PIECE", 4)
    write("a.txt", "\n\n first\nline\n \t\nsecond, longer\n\n\n\nthird\n")
    found = documents("a.txt", documents="blank_lines")
    assert found == {
        "a.txt:3": " first\nline",
        "a.txt:6": "second, longer",
        "a.txt:10": "third",
    }


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.text("ab\n ", max_size=60), st.lists(st.integers(1, 9), min_size=1)
)
def test_paragraphs_are_the_same_however_they_are_read(text, sizes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paragraphs, "PIECE", sizes[0])
        chunks, at = [], 0
        while at < len(text):
            chunks.append(text[at : at + sizes[len(chunks) % len(sizes)]])
            at += len(chunks[-1])
        found = []
        for _, (_, part, begins, ends) in paragraphs.paragraphs(iter(chunks), "x"):
            found.append(part if begins else found.pop() + part)
            open_ = not ends
        assert not (found and open_)
    wanted, last = [], ""
    for line in text.split("\n"):
        wanted += [line] if line.strip() and not last.strip() else []
        if line.strip() and last.strip():
            wanted[-1] += "\n" + line
        last = line
    assert found == wanted


# What is wrong is said, with its place.

DEEP = '{"text": "x", "deep": ' + "[" * 200_000 + "]" * 200_000 + "}"


@pytest.mark.parametrize("unreadable", ["refuse", "skip"])
@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"nonsense", "is not JSON (Expecting value, column 1)"),
        (b'{"text": "a"} {"text": "b"}', "is not JSON (Extra data"),
        (
            b'{"txt": "a"}',
            "no field 'text'; set config.data.text_field, such as to 'txt'",
        ),
        (
            b'{"text": 3, "body": "b"}',
            "has a number in 'text', not text; set config.data",
        ),
        (b'{"text": null}', "has null in 'text'"),
        (b'{"text": ["a"]}', "has a list in 'text'"),
        (b'{"text": [{"role": "user"}]}', "has a conversation in 'text'"),
        (b'["text"]', "is a list, not an object"),
        (b"3", "is a number, not an object"),
        (rb'{"text": "\ud800"}', "half of a surrogate pair"),
        (b'{"text": "caf\xe9"}', "is not UTF-8 (byte 0xe9 at 13"),
        (b'{"text": "tab\t"}', "Invalid control character"),
        (DEEP.encode(), "is nested too deeply"),
    ],
)
@pytest.mark.parametrize("longest", [1 << 23, 8])
def test_a_line_without_text_is_named_or_skipped(
    line, says, unreadable, longest, monkeypatch
):
    monkeypatch.setattr(json_files, "LONGEST", longest)  # as if the lines were longer
    write("a.jsonl", b'{"text": "good"}\n' + line + b'\n{"text": "last"}')
    if unreadable == "refuse":
        found = refusal("a.jsonl")
        assert "a.jsonl line 2 " in found and "'skip'" in found
        assert longest == 8 or says in found
        return
    assert texts("a.jsonl", unreadable="skip") == ["good", "last"]
    write("b.jsonl", '{"text": "and more"}\n' * 30)
    prepared = prepare(config("*.jsonl", unreadable="skip"), BYTES, epath.Path("cache"))
    assert prepared.info["skipped_records"] == 1
    assert prepared.info["skipped_files"] == 0


def test_nothing_is_said_of_skipped_lines_where_there_are_none(texts):
    prepared = prepare(config(texts), BYTES, epath.Path("cache"))
    assert "skipped_records" not in prepared.info  # it would change the rows' key


def test_a_last_line_that_is_cut_off_is_called_so():
    write("a.jsonl", '{"text": "good"}\n{"text": "goo')
    assert "line 2 is not JSON" in (found := refusal("a.jsonl"))
    assert "may be cut off: the file ends there" in found


@pytest.mark.parametrize("kind", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize(
    ("encoding", "says"),
    [
        ("cp1252", "not UTF-8"),
        ("utf-16", "is UTF-16"),
        ("utf-16-be", "is UTF-16"),
    ],
)
def test_other_encodings_are_named(kind, encoding, says):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    write(kind, (mark + '{"text": "ünï"}').encode(encoding))
    found = refusal(kind)
    assert says in found and "iconv -f" in found and found.startswith(kind)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "one",\n "id": 3}', "neither an array nor one object a line"),
        ('[{"text": "one"}, 3]', "element 2 is a number"),
        ('[{"text": "one"} {"text": "two"}]', "',' expected"),
        ('[{"text": "one"},', "is cut off"),
        ('[{"text": "one"}, {"text": "tw', "is not JSON"),
        ('[{"text": "one"}] 3', "more after the array"),
        ("<html>", "line 1 is not JSON"),
    ],
)
def test_json_that_is_no_array_of_objects_says_why(content, says):
    write("a.json", content)
    assert says in refusal("a.json")


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("kind", [".txt", ".jsonl"])
@pytest.mark.parametrize("damage", ["half", "other"])
def test_a_broken_archive_is_one_line(packing, kind, damage):
    lines = "".join(f'{{"text": "{i * 7919 % 1009}"}}\n' for i in range(20_000))
    content = PACKERS[packing](lines.encode())
    name = f"a{kind}{packing}"
    write(name, content[: len(content) // 2] if damage == "half" else b"plain text")
    found = refusal(name)
    assert found.startswith(f"{name} cannot be unpacked as {packing} (")
    assert "'skip'" in found
    write("b.jsonl", '{"text": "more"}\n' * 30)
    skipping = config("*", unreadable="skip")
    prepared = prepare(skipping, BYTES, epath.Path("cache"))
    assert prepared.info["skipped_files"] == 1
    if kind == ".txt":  # nothing is used of it
        counts = prepared.info["splits"].values()
        assert sum(split["documents"] for split in counts) == 30


@pytest.mark.parametrize("damage", ["bytes", "missing", "forbidden"])
def test_of_a_long_text_that_turns_out_unreadable_nothing_is_used(damage):
    for number in range(25):
        write(f"t/{number}.txt", f"text {number}")
    path = pathlib.Path("t/long.txt")
    write(path, b"fine until here\n" * 40_000 + b"\xff")
    if damage == "missing":
        path.unlink()
        path.symlink_to("nowhere")
    elif damage == "forbidden":
        if os.geteuid() == 0:
            pytest.skip("root reads everything")
        path.chmod(0)
    assert "long.txt" in refusal("t/*")
    found = documents("t/*", unreadable="skip")
    assert len(found) == 25 and not [text for text in found.values() if "fine" in text]


def test_a_text_that_changes_while_it_is_read_is_refused(texts):
    def track(found, split, size):
        for document in found:
            yield document
            pathlib.Path("texts/7.txt").write_text("another seven")

    with pytest.raises(UsageError, match="the text changed while it was read"):
        prepare(config(texts), BYTES, epath.Path("cache"), track=track)
    prepare(config(texts), BYTES, epath.Path("cache"))


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".json"])
@pytest.mark.parametrize("packing", PACKERS)
def test_what_is_packed_without_saying_so_is_named(kind, packing):
    write(f"a{kind}", PACKERS[packing](LINES.encode() * 50))
    assert f"is packed; its name must end with {packing}" in refusal(f"a{kind}")


# What a pattern matches.


def test_what_is_no_file_is_not_opened(capsys):
    os.mkfifo("pipe.txt")  # opening it would wait forever
    write("a.txt", "one")
    assert texts("*") == ["one"]
    assert "left out: pipe.txt" in capsys.readouterr().err


def test_what_a_pattern_matches_beside_text_is_named(capsys):
    for name in ("a.txt", "b.pdf", "c.tar.gz", "d.html", "e.docx", "sub/f.txt"):
        write(name, "x")
    assert texts("*") == ["x"]
    said = capsys.readouterr().err
    assert "b.pdf, c.tar.gz, d.html and 2 more" in said
    assert "b.pdf" in refusal("[b-e]*")
    assert "reads into it" in refusal("s*")
    assert texts("sub") == ["x"]
    assert "matches no .txt, " in refusal("nothing/*")


def test_links_give_a_file_no_second_document():
    write("corpus/a.txt", "one")
    pathlib.Path("corpus/loop").symlink_to(".")
    pathlib.Path("corpus/b.txt").symlink_to("a.txt")
    os.link("corpus/a.txt", "corpus/0.txt")
    assert len(documents("corpus/**/*.txt")) == 1


def test_names_need_not_be_utf_8():
    with open(b"caf\xe9.txt", "w") as file:
        file.write("one")
    write("b.jsonl", '{"text": "two"}\n' * 30)
    assert set(texts("*")) == {"one", "two"}
    prepare(config("*"), BYTES, epath.Path("cache"))


# Long texts.


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.text("ab \n", min_size=1, max_size=400),
    st.floats(0, 0.5),
    st.floats(0, 0.4),
    st.integers(1, 60),
    st.integers(1, 40),
)
def test_stretches_are_the_text_and_share_nothing(text, fraction, test, chunk, least):
    from kdjax.data import stretches as module

    chunks = (text[i : i + chunk] for i in range(0, len(text), chunk))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LEAST", least)
        found = list(stretches(chunks, len(text), fraction, test))
    assert "".join(piece.text for piece in found) == text
    assert [piece.ends for piece in found] == [False] * (len(found) - 1) + [True]
    for before, after in zip([None, *found], found, strict=False):
        is_new = before is None or before.split != after.split
        assert after.begins == is_new == (before is None or before.start != after.start)
    held_out = sum(len(piece.text) for piece in found if piece.split == "validation")
    assert held_out <= 1.25 * fraction * len(text) + 1
    assert held_out >= 0.75 * fraction * len(text) - 16


def test_stretches_for_the_test_move_none_for_validation(monkeypatch):
    monkeypatch.setattr("kdjax.data.stretches._LEAST", 20)
    chance = random.Random(0)
    for _ in range(600):
        chunks = [
            "".join(chance.choices("ab \n", (1, 1, 1, 3), k=chance.randint(1, 60)))
            for _ in range(chance.randint(1, 9))
        ]
        length = sum(map(len, chunks))
        validation, test = chance.uniform(0.0, 0.5), chance.uniform(0.0, 0.1)
        without, found = (
            [
                piece
                for piece in stretches(iter(chunks), length, validation, share)
                if piece.split == "validation"
            ]
            for share in (0.0, test)
        )
        assert found == without


@pytest.mark.parametrize(
    ("separator", "said"), [("\n\n", "\n\n"), ("\n", "\n"), (" ", " ")]
)
def test_borders_lie_between_paragraphs_else_lines_else_words(separator, said):
    text = separator.join(f"paragraph number {i} of many" for i in range(60_000))
    write("a.txt", text)
    corpus = open_corpus(config("a.txt", validation_fraction=0.1))
    train, held_out = (list(walk()) for walk in corpus.splits.values())
    stretches_ = {piece.name for piece in held_out}
    assert 1 < len(stretches_) <= 16
    sizes = [sum(len(p.text) for p in held_out if p.name == n) for n in stretches_]
    assert min(sizes) > 60_000
    for before, after in itertools.pairwise(train):
        assert after.begins == (before.name != after.name)
        assert not after.begins or before.text.endswith(said)
    # The text ends once, in the split that has its end.
    assert [p.ends for p in train] == [False] * len(train)
    assert [p.ends for p in held_out] == [False] * (len(held_out) - 1) + [True]


@pytest.mark.parametrize("count", [1, 25])
def test_only_the_end_of_a_text_is_an_end(count):
    long = "".join(f"line {i}\n" for i in range(20_000))
    for number in range(count):
        write(f"t/{number}.txt", long[: 20_000 if count > 1 else None])
    prepared = prepare(config("t/*", length=2048), BYTES, epath.Path("cache"))
    end = prepared.tokenizer.end_of_text
    for split, rows in prepared.splits.items():
        tokens = np.concatenate([row["tokens"] for row in rows])
        segments = np.concatenate([row["segments"] for row in rows])
        ends = np.count_nonzero((tokens == end) & (segments > 0))
        files = prepared.info["splits"][split]["documents"]
        assert ends == (files if count > 1 else split == "validation")


def test_a_short_text_is_not_divided():
    for number in range(10):
        write(f"t/{number}.txt", f"{number}\n" * 4096)
    found = documents("t/*")
    assert list(found.values()) and all(len(text) == 8192 for text in found.values())


def measured(documents):
    return measure(documents, Spelled({"</s>"}))


def test_the_hash_of_a_corpus_does_not_depend_on_its_pieces():
    whole = [Document("a", "one two"), Document("b", "three", ends=False)]
    parts = [
        [Document("a", "one two"), Document("b", "th", ends=False)],
        [Document("b", "ree", begins=False, ends=False)],
    ]
    assert measured(whole) == measured(parts[0] + parts[1])
    other = [whole[0], Document("b", "three")]
    assert measured(whole)["sha256"] != measured(other)["sha256"]
    moved = [Document("a", "one tw"), Document("b", "othree", ends=False)]
    assert measured(whole)["sha256"] != measured(moved)["sha256"]
    digest = Digest()  # as older versions hashed short documents
    digest.add(Document("a", "é"))
    assert digest.size()["sha256"] == (
        "f852b5ea0b1bf91ea508e38535c96f56e8e75d2bcf848bd57b911cf399eb6536"
    )


@pytest.mark.parametrize("kind", [".jsonl", ".json"])
@pytest.mark.parametrize("wide", ["", "😀"])
def test_a_text_longer_than_a_buffer_comes_in_pieces(kind, wide, monkeypatch):
    monkeypatch.setattr(json_files, "LONGEST", 100_000)
    long = "".join(f'{i} \\ "quoted" é\n{wide}' for i in range(50_000))
    records = [{"id": [1, {}], "text": text} for text in ("a", long, "b", long, "c")]
    lines = [json.dumps(r, ensure_ascii=i % 2 == 0) for i, r in enumerate(records)]
    content = "\n".join(lines) if kind == ".jsonl" else f"[{', '.join(lines)}]"
    write(f"a{kind}", content)
    found = documents(f"a{kind}")
    assert [found[f"a{kind}:{i}"] for i in range(1, 6)] == ["a", long, "b", long, "c"]
    corpus = open_corpus(config(f"a{kind}"))
    pieces = [len(d.text) for walk in corpus.splits.values() for d in walk()]
    assert max(pieces) < 4 * reading.PIECE


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.dictionaries(st.sampled_from(["a", "a.b", "c", "é"]), VALUES, max_size=3),
    st.text(),
    st.booleans(),
    st.sampled_from([None, 1, "\t"]),
    st.integers(1, 20),
)
def test_json_is_streamed_as_it_is_parsed(record, text, is_ascii, indent, chunk):
    content = json.dumps(record | {"text": text}, ensure_ascii=is_ascii, indent=indent)
    chunks = [content[i : i + chunk] for i in range(0, len(content), chunk)]
    try:
        found = "".join(stream_text(iter(chunks), "text"))
    except Unreadable as error:
        assert "surrogate" in str(error)
        with pytest.raises(UnicodeEncodeError):
            json.loads(content)["text"].encode()
    else:
        assert found == text


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(st.data(), st.integers(1, 9))
def test_what_is_no_json_is_not_streamed(data, chunk):
    good = r'{"a": [1, {"b": null}], "text": "x\u00e9\ud83d\ude00\\", "c": -2.5e3}'
    at = data.draw(st.integers(0, len(good)))
    content = (
        good[:at] + data.draw(st.text(r'"\{}[],:u0 ', max_size=2)) + good[at + 1 :]
    )
    chunks = [content[i : i + chunk] for i in range(0, len(content), chunk)]
    try:
        wanted = json_files.text_in(json_files.parse(content), "text")
    except Unreadable:
        wanted = None
    try:
        found = "".join(stream_text(iter(chunks), "text"))
    except Unreadable:
        found = None
    assert found == wanted


def test_more_files_of_which_none_is_held_out_whole_are_divided(home, capsys):
    """As 20 files often are at 5%: one more file must not leave nothing held out."""
    for count in (19, 20, 34, 35, 47):
        for number in range(count):
            (home / f"c{number}.txt").write_text("Some words in a line.\n" * 500)
        splits = open_corpus(DataConfig("files", "*.txt")).splits
        sizes = {s: sum(len(d.text) for d in walk()) for s, walk in splits.items()}
        assert sum(sizes.values()) == count * 11_000
        assert 0.01 < sizes["validation"] / sum(sizes.values()) < 0.2, count
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "data: 19 files; lines, rows or parts of each are held out"
    assert any("files; held out whole: " in line for line in said)
    assert any("none would be held out whole" in line for line in said)


def test_files_that_are_only_measured_on_are_not_called_held_out(home, capsys):
    for number in range(40):
        (home / f"c{number}.txt").write_text("Some words in a line.\n")
    for pattern, said in (("c1.txt", "data: 1 file"), ("*.txt", "data: 40 files")):
        open_corpus(DataConfig("files", pattern, validation_fraction=0.0))
        assert capsys.readouterr().err.splitlines() == [said]
