"""Rows and tokenizers in the cache: made once, and again if they are damaged."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from kdjax.core.errors import UsageError
from kdjax.core.files import changed_file, hash_files, read_json, write_json
from kdjax.core.locks import Lock
from kdjax.core.logging import say
from kdjax.core.mirrors import drop, publish, pull
from kdjax.data.packing import Row
from kdjax.data.stored import PackedRows
from kdjax.text import TextTokenizer, load_tokenizer


def keep_rows(
    directory: epath.Path, build: Callable[[], PackedRows]
) -> tuple[dict[str, Any], dict[str, Sequence[Row]]]:
    """Returns the rows in a directory, which are made unless they are there.

    Whatever else lies in the directory was left by a killed process, and goes.

    Args:
        directory: The rows' own, in the cache.
        build: Returns their builder, whose `data_dir` is the directory.

    Returns:
        Their metadata, and random access to the rows of each split.

    Raises:
        UsageError: Rows of an older version, of which no hashes are known, are damaged.
    """
    hashes = directory / "hashes.json"

    def place() -> epath.Path | None:
        found = directory.glob("*/*/dataset_info.json")
        return next((path.parent for path in found if _is_complete(path)), None)

    def is_made() -> bool:
        found = place()
        return found is not None and _is_sound(found, hashes)

    def make() -> None:
        pull(directory)
        if is_made():
            return
        drop(directory)
        if place() is not None:
            say(f"rows: those in {directory} are damaged and made again")
        directory.rmtree(missing_ok=True)
        build().download_and_prepare()
        found = place()
        assert found is not None
        write_json(hashes, hash_files(sorted(found.glob("*.json"))))

    _lock(directory).make_once("rows", is_made, make)
    publish(directory, hashes.name)
    try:
        builder = build()
        info = dict(builder.info.metadata)
        splits = {name: builder.as_data_source(split=name) for name in info["splits"]}
    # A damaged file of tensorflow-datasets may raise anything.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"the rows in {directory} are damaged ({reason}); delete it to have them "
            "made again"
        ) from None
    for name, rows in splits.items():
        if len(rows) != info["splits"][name].get("rows"):
            raise UsageError(
                f"{directory} holds {len(rows)} rows of {name}, not as many as it says;"
                " delete it to have them made again"
            )
    return info, splits


def keep_tokenizer(
    path: epath.Path, end_of_text: str, train: Callable[[], TextTokenizer]
) -> TextTokenizer:
    """Returns the tokenizer in a file, which is trained unless it is there.

    Args:
        path: The file, in the cache.
        end_of_text: The token that ends a document.
        train: Trains it.
    """
    hashes = path.with_suffix(".sha256")

    def is_made() -> bool:
        return path.exists() and _is_sound(path.parent, hashes)

    def make() -> None:
        pull(hashes)
        pull(path)
        if is_made():
            return
        drop(path)
        drop(hashes)
        if path.exists():
            say(f"tokenizer: {path} is damaged and trained again")
        tokenizer = train()
        path.parent.mkdir(parents=True, exist_ok=True)
        content = tokenizer.files()["tokenizer.json"].encode()
        # Before the file, which would be believed without.
        write_json(hashes, {path.name: hashlib.sha256(content).hexdigest()})
        tokenizer.save(path)

    _lock(path).make_once("tokenizer", is_made, make)
    publish(hashes, "")
    publish(path, "")
    return load_tokenizer(path, end_of_text)


def _is_complete(info: epath.Path) -> bool:
    return not info.parent.name.startswith("incomplete.")


def _is_sound(directory: epath.Path, hashes: epath.Path) -> bool:
    """Returns whether files are what they were when they were hashed.

    Those of older versions were not hashed, and are believed.
    """
    if not hashes.exists():
        return True
    try:
        return not changed_file(directory, read_json(hashes))
    except UsageError:
        return False


def _lock(path: epath.Path) -> Lock:
    """Returns the lock on something in a room of the cache."""
    cache, room = path.parent.parent, path.parent.name
    return Lock(cache / "locks" / f"{room}-{path.stem}.lock")
