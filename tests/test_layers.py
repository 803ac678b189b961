"""Imports only go down, and each library stays behind its wall."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "kdjax").rglob("*.py"))
LONGEST = 320  # lines; beyond it a file has found a second job

LAYERS = {
    **dict.fromkeys(("errors", "parsing", "config", "inheritance", "validation"), 0),
    **dict.fromkeys(("architecture", "metrics", "losses", "placement"), 0),
    **dict.fromkeys(("models", "data", "optimizers", "schedules", "sharding"), 1),
    **dict.fromkeys(("flops", "workdir", "writers", "summary", "plots", "results"), 1),
    **dict.fromkeys(("gguf_header", "sampling"), 1),
    **dict.fromkeys(("task", "online", "learner", "objective", "sources"), 2),
    **dict.fromkeys(("held_out", "meter"), 2),
    **dict.fromkeys(("step", "state", "checkpoint", "checkpoints", "decoding"), 2),
    **dict.fromkeys(("experiment",), 3),
    **dict.fromkeys(("train", "evaluate", "speaking"), 3),
    **dict.fromkeys(("main", "report", "generate", "export", "cli"), 4),
}
WALLS = {
    "flax": ("models",),
    "orbax": ("checkpoint", "checkpoints"),
    "grain": ("data",),
    "tensorflow_datasets": ("data",),
    "tokenizers": ("data",),
    "safetensors": ("models",),
    "gguf": ("gguf_header", "models"),
    "transformers": (),
    "tensorboardX": ("writers",),
    "matplotlib": ("plots",),
    "jinja2": ("data", "report"),
    "ml_collections": ("config", "validation", "main"),
    "absl": ("main", "report", "generate", "export", "cli"),
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


def test_every_part_of_the_package_has_a_layer():
    assert {unit(name) for name in GRAPH} - {""} <= LAYERS.keys()


@pytest.mark.parametrize("name", [n for n in GRAPH if unit(n)])
def test_imports_only_go_down(name):
    for imported in GRAPH[name]:
        if imported.startswith("kdjax."):
            assert LAYERS[unit(imported)] <= LAYERS[unit(name)], f"{name}: {imported}"


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
        unit(name)
        for name, imported in GRAPH.items()
        if any(i.split(".")[0] == library for i in imported)
    }
    assert users <= set(WALLS[library])


def test_what_refuses_mistakes_imports_nothing_heavy():
    for name in (
        "",
        ".errors",
        ".parsing",
        ".config",
        ".validation",
        ".architecture",
        ".cli",
        ".workdir",
    ):
        heavy = {"jax", "flax", "optax", "orbax", "grain"}
        assert not heavy & {i.split(".")[0] for i in GRAPH[f"kdjax{name}"]}


@pytest.mark.parametrize("path", FILES, ids=module)
def test_no_file_has_grown_a_second_job(path):
    assert len(path.read_text().splitlines()) <= LONGEST
