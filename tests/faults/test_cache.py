"""What experiments share is made once, whole, and made again when it is damaged."""

import hashlib
import json
import pathlib
import platform
import random
import shutil
import subprocess

import pytest
import runs
from etils import epath
from mutations import damage

from kdjax.config import DataConfig, TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.data import prepare
from kdjax.data.stored import StoredRows

TRAINED = TokenizerConfig(vocab_size=260)


def rows(texts):
    """Returns the hash of all that a corpus becomes."""
    data = DataConfig(source="files", pattern=texts, length=32, validation_fraction=0.2)
    prepared = prepare(data, TRAINED, epath.Path("cache"))
    found = {
        split: [row["tokens"].tolist() for row in map(stored.__getitem__, range(3))]
        for split, stored in prepared.splits.items()
    }
    content = [prepared.info, prepared.tokenizer.sha256, found]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def attack(texts, count):
    """Damages the small files beside rows and tokenizer, and makes both again."""
    whole = rows(texts)
    shutil.copytree("cache", "kept")
    files = [path for path in sorted(pathlib.Path("kept").rglob("*")) if path.is_file()]
    small = [path for path in files if path.suffix in (".json", ".sha256")]
    for number in range(count):
        chance = random.Random(number)
        shutil.rmtree("cache")
        shutil.copytree("kept", "cache")
        chosen = small[number % len(small)]
        path = pathlib.Path("cache", *chosen.parts[1:])
        damaged = damage(path.read_bytes(), chance)
        path.unlink() if damaged is None else path.write_bytes(damaged)
        assert rows(texts) == whole, (path, number)


def test_damaged_rows_and_tokenizers_are_made_again(texts, capsys):
    attack(texts, 6)
    assert "damaged and" in capsys.readouterr().err


@pytest.mark.slow
def test_the_cache_survives_two_hundred_damages(texts):
    attack(texts, 200)


def test_what_a_killed_preparation_left_goes(texts):
    whole = rows(texts)
    (directory,) = pathlib.Path("cache/rows").iterdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = f"{directory.name}.{platform.node()}-{gone.pid}-ab12cd34.tmp"
    directory.rename(directory.with_name(left))
    assert rows(texts) == whole
    assert [*directory.parent.iterdir()] == [directory]


def test_a_damaged_row_is_one_line_when_it_is_read(texts):
    rows(texts)
    (path,) = pathlib.Path("cache").rglob("train.array_record")
    content = bytearray(path.read_bytes())
    records = StoredRows(epath.Path(path), 32)
    for place in range(len(content) // 2, len(content) // 2 + 40):
        content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"the rows in .* are damaged.*; delete"):
        [*StoredRows(epath.Path(path), 32)]
    with pytest.raises(IndexError):
        records[len(records)]


def start(texts, workdir, *overrides):
    arguments = runs.experiment(
        *(texts, workdir, "--config.cache_dir=cache", "--config.tokenizer.kind=bpe"),
        *("--config.tokenizer.vocab_size=300", "--config.baseline=False", *overrides),
    )
    return runs.start(*arguments)


def scores(workdir):
    report = runs.read_report(workdir)
    return [run["final"] for run in report["runs"]], report["data"]["splits"]


@pytest.mark.slow
def test_two_cold_starts_share_what_one_of_them_makes(texts):
    for process in [start(texts, name) for name in "ab"]:
        _, errors = process.communicate(timeout=1800)
        assert process.returncode == 0, errors
    assert scores("a") == scores("b")
    assert len([*pathlib.Path("cache/teachers").iterdir()]) == 1
    # Whoever came second loaded it.
    trained = [name for name in "ab" if pathlib.Path(name, "teacher").exists()]
    assert len(trained) == 1


@pytest.mark.slow
def test_a_damaged_teacher_is_trained_again(texts):
    _, errors = start(texts, "a").communicate(timeout=1800)
    (teacher,) = pathlib.Path("cache/teachers").iterdir()
    largest = max(teacher.rglob("params/**/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    process = start(texts, "b")
    _, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, errors
    assert "teacher: trained again, for the cache is damaged" in errors
    assert scores("a") == scores("b")
