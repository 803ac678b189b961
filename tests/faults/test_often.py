"""Kills at any moment and damage anywhere: many of each, on the toy training."""

import collections
import pathlib
import random
import shutil
import subprocess
import threading
from contextlib import nullcontext

import pytest
import runs
from toy_training import EVERY_TWO, Acting, finish, make_program, make_run, stop_at

from kdjax.core.errors import UsageError
from kdjax.core.stopping import Preempted
from kdjax.train.loop import train

pytestmark = pytest.mark.slow
HERE = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def program():
    return make_program()


def damage(path, kind, draw):
    """Damages a file, and returns whether that made a difference."""
    before = path.read_bytes()
    at = draw.randrange(max(1, len(before)))
    flipped = bytearray(before or b"x")
    flipped[at] ^= 1 << draw.randrange(8)
    after = {"flip": flipped, "cut": before[:at], "zeros": bytes(len(before))}
    if kind == "delete":
        path.unlink()
        return True
    path.write_bytes(after[kind])
    return after[kind] != before


def test_all_damage_is_noticed_or_harmless(program, tmp_path, capsys):
    straight = finish(program, tmp_path / "straight")
    with pytest.raises(Preempted):
        stop_at(3, program, tmp_path / "begun")
    draw, counts = random.Random(0), collections.Counter()
    files = sorted(x for x in (tmp_path / "begun").rglob("*") if x.is_file())
    files = [x.relative_to(tmp_path) for x in files if "tensorboard" not in x.parts]
    sizes = [(tmp_path / path).stat().st_size for path in files]
    kinds = ("flip", "cut", "zeros", "delete")
    cases = [(path, kind) for path in files for kind in kinds]
    # Most of the bytes are in few files.
    cases += [(path, "flip") for path in draw.choices(files, sizes, k=100)]
    for number, (path, kind) in enumerate(cases):
        place = tmp_path / str(number)
        shutil.copytree(tmp_path / "begun", place)
        if not damage(place / path.relative_to("begun"), kind, draw):
            counts["no difference"] += 1
            continue
        try:
            assert finish(program, place) == straight, (path, kind)
            said = capsys.readouterr().err
            counts["noticed" if "cannot be used" in said else "harmless"] += 1
        except UsageError as error:
            # Lines from before the first checkpoint cannot be written again.
            assert path.name == "metrics.jsonl" and "\n" not in str(error)
            counts["refused"] += 1
        shutil.rmtree(place)
    with capsys.disabled():
        print(f"\n{len(cases)} cases: {dict(counts)}")
    assert counts["noticed"] > 100


@pytest.mark.parametrize("what", [(100,), (20, "experiment")])
def test_kills_at_any_moment_change_nothing(tmp_path, what):
    script = HERE / "kill_often.py"
    place, env = tmp_path / "runs", runs.environment()
    done = runs.run(script, place, *what, env=env, timeout=3000)
    print(done.stdout)
    assert done.stdout.endswith(", 0 of them different\n")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("is_freed", [True, False])
def test_a_full_disk_stops_nothing_while_it_may_be_freed(
    small_disk, tmp_path, capsys, is_freed
):
    def let_saves_end():
        for thread in threading.enumerate():
            if thread.name == "async_save":
                thread.join()

    def fill():
        let_saves_end()
        file = (small_disk / "full").open("wb", buffering=0)
        with file, pytest.raises(OSError):
            while True:
                file.write(bytes(4096))

    def free():
        let_saves_end()
        (small_disk / "full").unlink()

    program = make_program(steps=8)
    straight = finish(program, tmp_path / "straight")
    acts = {4: fill} | ({8: free} if is_freed else {})
    run = make_run(program, small_disk / "run", Acting(program, acts))
    with nullcontext() if is_freed else pytest.raises(OSError, match="No space left"):
        train(program, run, EVERY_TWO, 1)
    said = capsys.readouterr().err
    assert said.count("could not be written to") == (2 if is_freed else 3)
    assert said.count("metrics cannot be written") <= 1  # it may fit somewhere
    assert "Traceback" not in said
    (small_disk / "full").unlink(missing_ok=True)
    assert finish(program, small_disk / "run") == straight
    assert ("resuming at step 2 of 8" in capsys.readouterr().err) != is_freed
