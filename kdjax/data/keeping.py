"""Rows and tokenizers in the cache: made once, and again if they are damaged."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from kdjax.core.errors import UsageError
from kdjax.core.files import beside, changed_file, is_left, read_json, write_json
from kdjax.core.locks import Lock
from kdjax.core.logging import say
from kdjax.core.mirrors import drop, publish, pull
from kdjax.data.packing import Row
from kdjax.data.stored import StoredRows, file_of
from kdjax.text import TextTokenizer, load_tokenizer

CARD = "rows.json"  # says what the rows beside it are


def keep_rows(
    directory: epath.Path, write: Callable[[epath.Path], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Sequence[Row]]]:
    """Returns the rows in a directory, which are made unless they are there.

    They are written beside it and get its name when they are complete, so that a killed
    preparation leaves nothing that looks complete.

    Args:
        directory: The rows' own, in the cache.
        write: Writes the rows of all splits to a directory, and returns what is kept
            beside them, their "length" and "splits" among it.

    Returns:
        What is kept beside them, and random access to the rows of each split.

    Raises:
        UsageError: They were damaged since.
    """
    card = directory / CARD

    def is_made() -> bool:
        try:
            return bool(read_json(card))
        except UsageError:
            return False

    def make() -> None:
        pull(directory)
        if is_made():
            return
        drop(directory)
        if directory.exists():
            say(f"rows: those in {directory} are damaged and made again")
            directory.rmtree()
        for left in directory.parent.glob(f"{directory.name}.*.tmp"):
            if is_left(left):
                left.rmtree(missing_ok=True)
        unfinished = beside(directory)
        unfinished.mkdir(parents=True)
        write_json(unfinished / CARD, write(unfinished))
        unfinished.replace(directory)

    _lock(directory).make_once("rows", is_made, make)
    publish(directory, CARD)
    kept = read_json(card)
    splits: dict[str, Sequence[Row]] = {}
    for name, size in kept["splits"].items():
        rows = splits[name] = StoredRows(file_of(directory, name), kept["length"])
        if len(rows) != size["rows"]:
            raise UsageError(
                f"{directory} holds {len(rows)} rows of {name}, not as many as it says;"
                " delete it to have them made again"
            )
    return kept, splits


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
