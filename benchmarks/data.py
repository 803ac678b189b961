"""How fast files become rows, and with how much memory.

    python -m benchmarks.data

writes synthetic files and prepares the rows of each, in a process of its own: a .jsonl
file of many documents, the same with one emoji in every document, which makes Python
store four bytes a character, one document of a thirtieth of the size as a line of
.jsonl, and a .txt file of a third. It prints the peak of memory beyond what Python and
the imports take, and the megabytes of text per second of CPU time, beside those of the
tokenizer's library alone.
"""

import itertools
import json
import os
import pathlib
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
from absl import app, flags
from etils import epath

from benchmarks import common
from kdjax.config import DataConfig, TokenizerConfig
from kdjax.data import prepare
from kdjax.text.tokenizer import train_tokenizer

_SIZE = flags.DEFINE_integer("megabytes", 300, "The size of the largest files.", 3)
_LENGTH = 1024  # tokens in a row

MEMORY = 300.0  # MB beyond the imports
SPEED = 5.0  # MB per second of CPU time
_ALONE = 1 << 14  # characters that the library gets at once
_SAMPLE = 4  # MB for the library alone


def main(argv: list[str]) -> None:
    """Runs the benchmark, or, given a file, prepares its rows and measures that."""
    if argv[1:]:
        print(json.dumps(measured(**json.loads(argv[1]))))
        return
    rows = []
    for name in ("many.jsonl", "many-emoji.jsonl", "one.jsonl", "book.txt"):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / name
            write(path, _SIZE.value * 10**6)
            for kind in ("bytes", "bpe"):
                request = {"path": str(path), "kind": kind}
                found = common.in_fresh_process("benchmarks.data", request)
                if "error" in found:
                    raise app.UsageError(f"{name} with {kind}: {found['error']}")
                rows.append(
                    {"file": name, "MB": round(path.stat().st_size / 1e6)}
                    | {"tokenizer": kind}
                    | found
                    | {"goals": _goals(found)}
                )
    common.table("Files to rows", tuple(rows[0]), [list(row.values()) for row in rows])
    common.save("data", {"rows": rows}, show=False)


def _goals(found: dict[str, Any]) -> str:
    speed = found["MB/CPU s"]
    return (
        f"memory {common.verdict(found['peak MB'], MEMORY)}, "
        f"speed {'met' if speed >= SPEED else 'MISSED'} (>= {SPEED:g})"
    )


def write(path: pathlib.Path, size: int) -> None:
    """Writes a synthetic file; its name tells which."""
    with path.open("w", encoding="utf-8") as file:
        if path.name == "one.jsonl":
            text = "".join(_lines(size // 30))
            file.write(json.dumps({"text": text}) + "\n")
            # What is held out.
            file.writelines(
                json.dumps({"text": line}) + "\n" for line in _lines(50_000)
            )
        elif path.suffix == ".txt":
            file.writelines(_lines(size // 3))
        else:
            end = "\N{GRINNING FACE}" if "emoji" in path.name else ""
            lines, written = _lines(size), 0
            for first in lines:
                text = first + "".join(next(lines, "") for _ in range(40)) + end
                written += file.write(
                    json.dumps({"text": text}, ensure_ascii=False) + "\n"
                )
                if written >= size:
                    break


def _lines(size: int) -> Iterator[str]:
    """Yields lines of words whose frequencies fall as those of a language do."""
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choices(letters, k=rng.randint(1, 10))) for _ in range(20_000)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, 20_001)))
    lines = [
        " ".join(rng.choices(words, cum_weights=weights, k=14)) + ".\n"
        for _ in range(20_000)
    ]
    for line in itertools.cycle(lines):
        yield line
        size -= len(line)
        if size <= 0:
            return


def measured(path: str, kind: str) -> dict[str, Any]:
    """Returns the memory and the speed of preparing a file's rows."""
    jax.block_until_ready(jax.numpy.zeros(()))  # exclude jax's own threads and pools
    config = TokenizerConfig(kind=kind)  # type: ignore[arg-type]
    data = DataConfig("files", path, length=_LENGTH, validation_fraction=0.05)
    before, started, wall = _resident(), time.process_time(), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=pathlib.Path(path).parent) as cache:
        prepared = prepare(data, config, epath.Path(cache))
    seconds, wall = time.process_time() - started, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    megabytes = sum(split["bytes"] for split in prepared.info["splits"].values()) / 1e6
    return {
        "peak MB": round((peak - before) / 1e6),
        "MB/CPU s": round(megabytes / seconds, 2),
        "MB/s": round(megabytes / wall, 2),
        "library alone MB/CPU s": round(_alone(config), 2),
    }


def _alone(config: TokenizerConfig) -> float:
    """Returns the speed of the tokenizer's library on such text, ids as lists."""
    text = "".join(_lines(_SAMPLE * 10**6))
    library = train_tokenizer([text[: 10**6]], config).tokenizer
    texts = [text[i : i + _ALONE] for i in range(0, len(text), _ALONE)]
    started = time.process_time()
    for first in range(0, len(texts), 16):
        for encoding in library.encode_batch_fast(
            texts[first : first + 16], add_special_tokens=False
        ):
            len(encoding.ids)
    return len(text) / 1e6 / (time.process_time() - started)


def _resident() -> int:
    """Returns the bytes of memory in use (Linux)."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    app.run(main)
