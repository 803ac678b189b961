"""Imports only go down, and each library stays behind its wall."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "kdjax").rglob("*.py"))
LONGEST = 320  # lines; beyond it a file has found a second job

# From the lowest to the highest: a room may use those before it, and doors use any.
ROOMS = (
    "core",
    "losses",
    "config",
    "parallel",
    "formats",
    "text",
    "data",
    "models",
    "checkpoints",
    "targets",
    "generation",
    "results",
    "train",
    "evaluation",
    "experiment",
    "planning",
    "report",
    "sweeps",
)
DOORS = (
    *("main", "plan", "sweep", "generate", "export", "evaluate", "harness"),
    *("__main__", "running"),
)
RANKS = {name: rank for rank, name in enumerate(ROOMS)} | dict.fromkeys(DOORS, 99)
WALLS = {
    "flax": ("models",),
    "orbax": (
        *("train.checkpoints", "train.newest"),
        *("checkpoints.native", "checkpoints.parts"),
    ),
    "grain": ("data.batches",),
    "tensorflow_datasets": ("data",),
    "array_record": ("data.stored",),
    "pyarrow": ("data.reading", "data.parquet_files"),
    "tokenizers": ("text",),
    "safetensors": ("formats.safetensors", "checkpoints.hf.save"),
    "gguf": ("formats.gguf", "checkpoints.gguf"),
    "transformers": (),
    "lm_eval": ("evaluation.harness", "harness"),
    "huggingface_hub": ("checkpoints.hub",),
    "filelock": ("core.locks",),
    "fsspec": ("core.buckets",),
    "tensorboardX": (),  # which imports torch
    "matplotlib": ("report.plots",),
    "jinja2": ("text.templates", "report.rendering"),
    "ml_collections": ("config", *DOORS),
    "absl": ("core.cli", "config.flags", "report.__main__", *DOORS),
    "tensorflow": (),
    "torch": (),
    "pickle": (),
}


def module(path):
    """Returns the dotted name, without `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(name):
    """Returns the part of kdjax that the layers are made of: a file or a package."""
    return name.split(".")[1] if "." in name else ""


def imports(path):
    """Yields the dotted names a file imports, function bodies included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            if node.module == "kdjax":
                yield from (f"kdjax.{alias.name}" for alias in node.names)
            else:
                yield node.module


GRAPH = {module(path): set(imports(path)) for path in FILES}


def test_every_part_of_the_package_has_its_place():
    assert {unit(name) for name in GRAPH} - {""} == RANKS.keys()


@pytest.mark.parametrize("name", [n for n in GRAPH if unit(n)])
def test_imports_only_go_down(name):
    for imported in GRAPH[name]:
        if imported.startswith("kdjax.") and unit(imported) != unit(name):
            assert RANKS[unit(imported)] < RANKS[unit(name)], f"{name}: {imported}"


def test_no_two_files_need_each_other():
    def visit(name, above):
        assert name not in above, " -> ".join((*above, name))
        for imported in GRAPH.get(name, ()):
            if imported in GRAPH:
                visit(imported, (*above, name))

    for name in GRAPH:
        visit(name, ())


@pytest.mark.parametrize("library", WALLS)
def test_each_library_stays_behind_its_wall(library):
    users = {
        name.removeprefix("kdjax.")
        for name, imported in GRAPH.items()
        if any(i.split(".")[0] == library for i in imported)
    }
    rooms = WALLS[library]
    assert not [
        u for u in users if not f"{u}.".startswith(tuple(f"{r}." for r in rooms))
    ]


def test_what_refuses_mistakes_imports_nothing_heavy():
    light = ("", ".core.errors", ".core.cli", ".core.files", ".experiment.workdir")
    config = [name for name in GRAPH if name.startswith("kdjax.config")]
    for name in (*(f"kdjax{name}" for name in light), *config):
        heavy = {"jax", "flax", "optax", "orbax", "grain"}
        assert not heavy & {i.split(".")[0] for i in GRAPH[name]}, name


@pytest.mark.parametrize("path", FILES, ids=module)
def test_no_file_has_grown_a_second_job(path):
    assert len(path.read_text().splitlines()) <= LONGEST
