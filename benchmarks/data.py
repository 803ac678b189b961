"""How fast files become rows, and with how much memory.

    python -m benchmarks.data
    python -m benchmarks.data --megabytes=2000 --files=book.txt --cores=2

writes synthetic files and prepares the rows of each, in a process of its own, on one
core and on two: a .txt file, a .jsonl file of many lines, 300 bytes each, the same with
one emoji in every line, which makes Python store four bytes a character, and one
document of a thirtieth of the size as a line of .jsonl. It prints the peak of memory
beyond what Python and the imports take, and the megabytes of text per second, of CPU
time and of the clock, beside those of the tokenizer's library alone on the same cores.
The BPE tokenizer is trained beforehand, on a megabyte.
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
import tokenizers
from absl import app, flags
from etils import epath

from benchmarks import common
from kdjax.config import DataConfig, TokenizerConfig
from kdjax.data import prepare
from kdjax.text.tokenizer import train_tokenizer

_FILES = ("book.txt", "many.jsonl", "many-emoji.jsonl", "one.jsonl")
_SIZE = flags.DEFINE_integer("megabytes", 300, "The size of the largest files.", 3)
_CHOSEN = flags.DEFINE_list("files", list(_FILES), "Which files.")
_KINDS = flags.DEFINE_list("tokenizers", ["bytes", "bpe"], "Which tokenizers.")
_CORES = flags.DEFINE_list("cores", ["1", "2"], "How many cores.")
_RESULT = flags.DEFINE_string("result", "data", "Names the file in results/.")
_LENGTH = 1024  # tokens in a row

MEMORY = 300.0  # MB beyond the imports
SHARE = 0.8  # of the speed of the library alone, in CPU time and by the clock
_ALONE = 1 << 14  # characters that the library gets at once
_SAMPLE = 8  # MB for the library alone


def main(argv: list[str]) -> None:
    """Runs the benchmark, or, given a file, prepares its rows and measures that."""
    if argv[1:]:
        print(json.dumps(measured(**json.loads(argv[1]))))
        return
    if unknown := set(_CHOSEN.value) - set(_FILES):
        raise app.UsageError(f"--files: {unknown.pop()} is none of {', '.join(_FILES)}")
    rows = []
    for name in _CHOSEN.value:
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / name
            write(path, _SIZE.value * 10**6)
            for kind, cores in itertools.product(_KINDS.value, _CORES.value):
                request = {"path": str(path), "kind": kind, "cores": int(cores)}
                found = common.in_fresh_process("benchmarks.data", request)
                if "error" in found:
                    raise app.UsageError(f"{name} with {kind}: {found['error']}")
                rows.append(
                    {"file": name, "MB": round(path.stat().st_size / 1e6)}
                    | {"tokenizer": kind, "cores": int(cores)}
                    | found
                    | {"goals": _goals(found)}
                )
                common.table(name, tuple(rows[0]), [list(rows[-1].values())])
    common.table("Files to rows", tuple(rows[0]), [list(row.values()) for row in rows])
    packages = common.versions(["tokenizers", "numpy", "array_record"])
    common.save(_RESULT.value, {"versions": packages, "rows": rows}, show=False)


def _goals(found: dict[str, Any]) -> str:
    share = min(
        found["MB/CPU s"] / found["library MB/CPU s"],
        found["MB/s"] / found["library MB/s"],
    )
    return (
        f"memory {common.verdict(found['peak MB'], MEMORY)}, speed "
        f"{'met' if share >= SHARE else 'MISSED'} ({share:.2f} of the library's)"
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
            file.writelines(_lines(size))
        else:
            end = "\N{GRINNING FACE}" if "emoji" in path.name else ""
            lines, written = _lines(size), 0
            for first in lines:
                text = first + "".join(next(lines, "") for _ in range(2)) + end
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


def measured(path: str, kind: str, cores: int) -> dict[str, Any]:
    """Returns the memory and the speed of preparing a file's rows."""
    # Before the library starts its threads, one for each core that it sees.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    jax.block_until_ready(jax.numpy.zeros(()))  # exclude jax's own threads and pools
    sample = "".join(_lines(_SAMPLE * 10**6))
    config = TokenizerConfig(kind=kind)  # type: ignore[arg-type]
    trained = train_tokenizer([sample[: 10**6]], config)
    data = DataConfig("files", path, length=_LENGTH, validation_fraction=0.05)
    with tempfile.TemporaryDirectory(dir=pathlib.Path(path).parent) as cache:
        trained.save(epath.Path(cache) / "tokenizer.json")
        config = TokenizerConfig("file", path=f"{cache}/tokenizer.json")
        before, started, wall = _resident(), time.process_time(), time.perf_counter()
        prepared = prepare(data, config, epath.Path(cache))
        seconds, wall = time.process_time() - started, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    megabytes = sum(split["bytes"] for split in prepared.info["splits"].values()) / 1e6
    alone, alone_wall = _alone(trained.tokenizer, sample)
    return {
        "text MB": round(megabytes),
        "peak MB": round((peak - before) / 1e6),
        "MB/CPU s": round(megabytes / seconds, 2),
        "library MB/CPU s": round(alone, 2),
        "MB/s": round(megabytes / wall, 2),
        "library MB/s": round(alone_wall, 2),
    }


def _alone(library: tokenizers.Tokenizer, text: str) -> tuple[float, float]:
    """Returns the speed of the tokenizer's library, ids as lists: MB/CPU s and MB/s."""
    texts = [text[i : i + _ALONE] for i in range(0, len(text), _ALONE)]
    started, wall = time.process_time(), time.perf_counter()
    for first in range(0, len(texts), 16):
        for encoding in library.encode_batch_fast(
            texts[first : first + 16], add_special_tokens=False
        ):
            len(encoding.ids)
    megabytes = len(text) / 1e6
    seconds, wall = time.process_time() - started, time.perf_counter() - wall
    return megabytes / seconds, megabytes / wall


def _resident() -> int:
    """Returns the bytes of memory in use (Linux)."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    app.run(main)
