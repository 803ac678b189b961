"""Makes tests/outcomes.json: what becomes of random models and of edited config files.

    pip install -e '.[interop]' && PYTHONPATH=. python tests/make_outcomes.py [name ...]

Nothing is written unless transformers computes the same as kdjax with every model that
is exported, and with every file that is not refused: a quarter of an hour's work for a
core. With names, only these are compared: "exports", or fixtures.
"""

import json
import logging
import multiprocessing
import pathlib
import shutil
import sys
import tempfile

import interop
import torch
import transformers

TESTS = pathlib.Path(__file__).parent
FIXTURES = TESTS / "fixtures"
AGAIN = {"llama3", "llama_linear", "smollm2"}  # fixtures of a family that has another


def defaults(model_type: str) -> dict:
    """Returns the keys of a family's config in transformers, with their defaults."""
    values = transformers.CONFIG_MAPPING[model_type]().to_dict()
    del values["transformers_version"]
    return values


def is_compared(name: str) -> bool:
    """Returns whether transformers is to compute it."""
    return name in (sys.argv[1:] or [name])


def export(number: int) -> str:
    """Returns what a random model is written as."""
    config = interop.random_configs(interop.COUNT)[number]
    outcome = interop.export_outcome(config)
    if " " not in outcome and is_compared("exports"):
        with tempfile.TemporaryDirectory() as place:
            interop.check_export(config, pathlib.Path(place) / "out")
    print(number, outcome, flush=True)
    return outcome


def edits(fixture: pathlib.Path) -> dict[str, dict]:
    """Returns how the edited files of a fixture are read, key by key."""
    values = json.loads((fixture / "config.json").read_text())
    known, keys = {}, defaults(values["model_type"])
    compared = interop.mutations(values, keys) if is_compared(fixture.name) else ()
    with tempfile.TemporaryDirectory() as place:
        copied = pathlib.Path(shutil.copytree(fixture, pathlib.Path(place) / "in"))
        for _, edited in compared:
            interop.check_reading(copied, values, edited, known)
    print(fixture.name, flush=True)
    return {"defaults": keys, "read": interop.readings(values, keys)}


def silence() -> None:
    """Prepares a process."""
    transformers.logging.set_verbosity_error()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)


def main() -> None:
    """Compares everything and writes the file."""
    fixtures = [f for f in sorted(FIXTURES.iterdir()) if f.name not in AGAIN]
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(3, silence) as pool:
        edited = pool.map_async(edits, fixtures, chunksize=1)
        exported = pool.map_async(export, range(interop.COUNT), chunksize=1)
        outcomes = {
            "transformers": transformers.__version__,
            "exports": exported.get(),
            "edits": {
                fixture.name: found
                for fixture, found in zip(fixtures, edited.get(), strict=True)
            },
        }
    text = json.dumps(outcomes, indent=1, sort_keys=True)
    (TESTS / "outcomes.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
