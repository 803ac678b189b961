"""Of each small file that a run reads back, any damage is told of or harmless."""

import dataclasses
import hashlib
import random
import resource
import time

import pytest
from etils import epath
from measurements import make_results
from mutations import damage, restructured

from kdjax.checkpoints import native
from kdjax.config import Config, ModelConfig
from kdjax.core.errors import UsageError
from kdjax.core.files import read_json, write_json
from kdjax.data import keeping, sizes
from kdjax.data.documents import Corpus, Skipped
from kdjax.experiment import workdir
from kdjax.experiment.plans import read_plans
from kdjax.experiment.runs import _record
from kdjax.experiment.students import remembered
from kdjax.report.many.points import read_points
from kdjax.results import files
from kdjax.results.measured import HeldOut
from kdjax.sweeps.plan import read_failure

INFO = {
    "splits": {"train": {"sha256": "a1"}, "validation": {"sha256": "b2"}},
    "tokenizer": {"sha256": "c3"},
}
RESULTS = make_results(student=[1.2], twin=[1.3])
RUN = dataclasses.asdict(RESULTS.runs[1])
DATA = {"train": "a1", "validation": "b2", "tokenizer": "c3"}
SIZE = {"documents": 3, "bytes": 700, "sha256": "ab"}
CARD = {
    "model": dataclasses.asdict(ModelConfig(vocab_size=300)),
    "tokenizer": "ab",
    "end_of_text": "<|endoftext|>",
    "sha256": "cd",
    "curve": [dataclasses.asdict(point) for point in RESULTS.runs[1].curve],
    "training": None,
}
POINT = {"name": "a", "workdir": "points/a", "overrides": {"seed": 1}, "command": "x"}


def claim(path):
    workdir.claim(path.parent, Config(seeds=2))
    return read_json(path)


def check_data(path):
    return workdir.check_data(path.parent, INFO, {})


def card(path):
    stored = native.NativeModel(path.parent)
    return stored.card, stored.config, _record(stored)


def known(path):
    corpus = Corpus(dict.fromkeys(("train", "validation")), Skipped())
    return sizes._known(path, corpus)


def sound(path):
    (path.parent / "empty.txt").touch()
    return keeping._is_sound(path.parent, path)


# Of each file what it holds, what reads it, and whether that may take it for missing.
KINDS = {
    "config.json": (dataclasses.asdict(Config()), claim, False),
    "data.json": (DATA, check_data, True),
    "plans.json": ({"steps": [40, 80]}, lambda path: read_plans(path.parent, 80), True),
    "result.json": (RUN, files.read_run, False),
    "report.json": (files.to_json(RESULTS), files.read, False),
    "equal_compute.json": ({"work": 1.75}, lambda p: files.read_work(p.parent), True),
    "initial.json": (
        RUN["final"],
        lambda path: remembered(path, dict, dict[str, HeldOut]),
        True,
    ),
    "sweep.json": ({"points": [POINT]}, lambda p: read_points([p.parent]), False),
    "failed.json": ({"reason": "no", "exit_code": 1, "id": "7"}, read_failure, True),
    "sizes.json": (
        {"sizes": {"train": SIZE, "validation": SIZE}, "files": [], "records": {}},
        known,
        True,
    ),
    "model.json": (CARD, card, False),
    "hashes.json": (
        {"empty.txt": hashlib.sha256(b"").hexdigest()},
        sound,
        True,
    ),
}


def attack(directory, name, count, *, older=False):
    """Damages a file many times; returns how often that was told of, or harmless.

    Args:
        directory: An empty one.
        name: The file's.
        count: How many times.
        older: Whether it has no checksum, as older versions wrote it.
    """
    content, read, may_be_missing = KINDS[name]
    path = epath.Path(directory) / name
    write_json(path, content, sealed=not older)
    (path.parent / "student-0").mkdir()
    whole = path.read_bytes()
    expected = read(path)
    told = harmless = 0
    for number in range(count):
        chance = random.Random(f"{name} {number}")
        damaged = restructured(whole, chance) if older else damage(whole, chance)
        if damaged is None:
            path.unlink()
        else:
            path.write_bytes(damaged)
        try:
            found = read(path)
        except UsageError as error:
            said = str(error)
            assert "\n" not in said and len(said) < 2000, said
            # A directory without a config may be anybody's.
            assert str(path) in said or str(path.parent) in said, said
            told += 1
        else:
            is_equal = found == expected
            is_missed = may_be_missing and found in (None, {}, False, (80,))
            assert older or is_equal or is_missed, (number, damaged)
            told, harmless = told + (not is_equal), harmless + is_equal
        path.write_bytes(whole)
        assert read(path) == expected
    return told, harmless


@pytest.mark.parametrize("name", KINDS)
def test_damage_to_a_small_file_is_told_of_or_harmless(tmp_path, name):
    assert attack(tmp_path, name, 12)[0]
    (tmp_path / "older").mkdir()
    attack(tmp_path / "older", name, 6, older=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_each_small_file_survives_two_thousand_damages(tmp_path, name, capsys):
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.time()
    found = attack(tmp_path, name, 2000)
    (tmp_path / "older").mkdir()
    older = attack(tmp_path / "older", name, 2000, older=True)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 500_000  # kB
    with capsys.disabled():
        print(f"\n{name}: {found}, older {older}; {time.time() - begun:.0f} s")
