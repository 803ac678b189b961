"""Addresses in object stores, on fsspec's own store in memory."""

import json
import os
import platform
import threading

import fsspec
import pytest
from etils import epath

from kdjax.core import leases, mirroring
from kdjax.core.buckets import Bucket, is_remote
from kdjax.core.errors import UsageError
from kdjax.core.inputs import fetched, fetched_tokenizer
from kdjax.core.leases import Lease, LostError
from kdjax.core.mirrors import (
    address,
    drop,
    kept,
    mirror_of,
    mirrored,
    publish,
    pull,
    push,
    spoken,
    written,
)
from kdjax.data.matching import find
from kdjax.experiment.owners import owned
from kdjax.experiment.places import opened

HERE = "memory://bucket/run"


@pytest.fixture(autouse=True)
def store(home):
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()


def write(directory, **contents):
    for name, content in contents.items():
        path = directory / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def lease(owner=None):
    """Returns a lease, whose object another owner has written."""
    if owner is not None:
        Bucket(HERE).write(".lease", json.dumps(owner).encode())
    return Lease(Bucket(HERE), ".lease")


def elsewhere(**content):
    return {"id": "x", "host": "elsewhere", "process": 1, "renewed": 0.0, **content}


def test_what_is_pushed_another_machine_pulls_whole():
    with mirrored(HERE) as first:
        write(first, a_txt="a", run__b_txt="b", c_tmp="half", x_lock="", d_owner="me")
        push(first)
        assert Bucket(HERE).files().keys() == {"a.txt", "run/b.txt"}
        (first / "a.txt").unlink()
        write(first, run__b_txt="b2")
        push(first)
        with mirrored(HERE) as second:
            write(second, run__old="not there")
            pull(second)
            files = sorted(path.name for path in (second / "run").iterdir())
            assert files == ["b.txt"] and not (second / "a.txt").exists()
            assert (second / "run" / "b.txt").read_text() == "b2"
    assert not first.exists() and not second.exists()


def test_only_what_has_changed_is_copied_and_seals_come_last(monkeypatch):
    names = []
    put = mirroring.Bucket.put
    monkeypatch.setattr(
        mirroring.Bucket, "put", lambda self, *a: (names.append(a[1]), put(self, *a))
    )
    with mirrored(HERE) as directory:
        write(directory, model__model_json="{}", model__w="1", model__z="2")
        push(directory)
        assert names[2:] == ["model/model.json"] and len(names) == 3
        write(directory, model__w="11")
        push(directory)
        assert names[3:] == ["model/w"]


def test_a_cache_s_entry_is_written_once_until_it_is_dropped(home):
    cache = kept("memory://bucket/cache")
    write(cache, rows__k__hashes_json="1", rows__k__rows="1")
    publish(cache / "rows" / "k", "hashes.json")
    write(cache, rows__k__rows="2")
    publish(cache / "rows" / "k", "hashes.json")
    assert Bucket("memory://bucket/cache").read("rows/k/rows") == b"1"
    drop(cache / "rows" / "k")
    publish(cache / "rows" / "k", "hashes.json")
    assert Bucket("memory://bucket/cache").read("rows/k/rows") == b"2"


def test_a_store_that_fails_half_way_has_no_seal(monkeypatch):
    def fail(self, path, name):
        if name.endswith("w"):
            raise OSError(5, "no network")

    with mirrored(HERE) as directory:
        write(directory, model__model_json="{}", model__w="1")
        monkeypatch.setattr(mirroring.Bucket, "put", fail)
        with pytest.raises(OSError, match="no network"):
            push(directory)
        monkeypatch.undo()
        push(directory)  # another attempt does what is left
    assert Bucket(HERE).files().keys() == {"model/model.json", "model/w"}


def test_plain_paths_are_left_alone(tmp_path):
    path = epath.Path(tmp_path)
    push(path), pull(path), drop(path), publish(path, "x")
    with mirrored(path) as found, written(path) as other:
        assert found == other == kept(path) == fetched(path) == path
    assert mirror_of(path) is None and address(path) == str(path)
    assert not any(map(is_remote, ("a/b", "http://a/b", "file:///a", "C:\\a")))


def test_messages_name_the_address_also_when_the_copy_is_gone():
    with mirrored(HERE) as directory:
        text = f"{directory}/config.json is damaged"
    assert spoken(text) == f"{HERE}/config.json is damaged"


def test_a_living_owner_s_lease_is_not_taken(monkeypatch):
    monkeypatch.setattr(leases, "LIFETIME", 0.2)
    monkeypatch.setattr(leases, "_SETTLED", 0.0)
    alive = elsewhere(host=platform.node(), process=os.getpid(), renewed=9e9)
    other = lease(alive)
    said = []
    renewal = threading.Timer(0.05, lease, [{**alive, "renewed": 9.1e9}])
    renewal.start()
    assert not other.try_to_take(said.append)
    assert said == [f"process {os.getpid()} on {platform.node()}"]


@pytest.mark.parametrize(
    ("owner", "waits"),
    [
        (elsewhere(host=platform.node(), process=2**22 + 1, renewed=9e9), False),
        (elsewhere(renewed=0.0), False),  # silent for long
        (elsewhere(renewed=9e9), True),  # it may be alive: nothing is heard of it
        ("damaged", False),
    ],
)
def test_a_dead_owner_s_lease_is_taken(owner, waits, monkeypatch):
    monkeypatch.setattr(leases, "LIFETIME", 0.1)
    monkeypatch.setattr(leases, "_SETTLED", 0.0)
    said, mine = [], lease(owner)
    assert mine.try_to_take(said.append) and bool(said) == waits
    mine.check()
    mine.release()
    assert Bucket(HERE).read(".lease") is None


def test_a_run_that_was_taken_for_dead_commits_nothing_more(monkeypatch):
    with (
        pytest.raises(LostError, match="taken over"),
        opened(HERE) as directory,
        owned(directory, is_first=True, waits=False),
    ):
        write(directory, config_json="mine")
        lease(elsewhere())
    assert Bucket(HERE).read("config.json") is None
    assert Bucket(HERE).read(".lease") is not None  # the other one's


def test_a_place_of_something_else_is_not_even_read(store):
    store.pipe_file("/bucket/run/holiday.jpg", b"")
    with pytest.raises(UsageError, match=f"{HERE} is not empty"), opened(HERE):
        pass


def test_files_in_a_bucket_are_found_and_split_by_their_names_there(store, home):
    for name in ("b.txt", "a.jsonl.gz", "c.png", ".hidden.txt", "sub/d.md"):
        store.pipe_file(f"/bucket/texts/{name}", b"text")
    found = find("memory://bucket/texts")
    assert [f.name for f in found] == [
        "texts/a.jsonl.gz",
        "texts/b.txt",
        "texts/sub/d.md",
    ]
    (file,) = find("memory://bucket/t*s/*.txt")
    assert (file.name, file.path.read_text()) == ("texts/b.txt", "text")
    assert find("memory://bucket/texts/b.txt") == [file]
    with pytest.raises(UsageError, match="matches no"):
        find("memory://bucket/none/*.txt")


def test_an_input_is_copied_anew_when_it_has_changed(store):
    for content in (b"1", b"22"):
        store.pipe_file("/bucket/model/config.json", content)
        store.pipe_file("/bucket/model/checkpoints/4/state", b"large")
        assert (
            fetched("memory://bucket/model") / "config.json"
        ).read_bytes() == content
        assert [p.name for p in fetched("memory://bucket/model").iterdir()] == [
            "config.json"
        ]
    with pytest.raises(UsageError, match="does not exist"):
        fetched("memory://bucket/nothing")


def test_a_tokenizer_comes_with_what_lies_beside_it_but_not_with_weights(store):
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        store.pipe_file(f"/bucket/model/{name}", b"{}")
    path = fetched_tokenizer("memory://bucket/model/tokenizer.json")
    found = sorted(each.name for each in path.parent.iterdir())
    assert found == ["tokenizer.json", "tokenizer_config.json"]


def test_what_is_written_does_not_take_another_s_place(store):
    for name in ("model.gguf", "model"):
        with written(f"memory://bucket/{name}") as path:
            write(path.parent, **{f"{name.replace('.', '_')}": "1"})
        with (
            pytest.raises(UsageError, match="exists already"),
            written(f"memory://bucket/{name}"),
        ):
            pass
    assert Bucket("memory://bucket").files().keys() == {"model", "model.gguf"}


@pytest.mark.skipif(
    fsspec.utils.get_package_version_without_import("gcsfs") is not None,
    reason="gcsfs is installed",
)
def test_a_missing_package_is_named():
    with pytest.raises(UsageError, match="gs://b/run needs a package: pip"):
        Bucket("gs://b/run")
    with pytest.raises(UsageError, match="is in no store that is known"):
        Bucket("cloud9://b/run")
