"""Whatever a model on disk is, it is opened by one function and read once."""

import ast
import collections
import dataclasses
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from gguf_files import converted, metadata, write
from jax.sharding import PartitionSpec
from safetensors.numpy import load_file
from teachers import architecture_of, load_teacher, make_setting
from toys import TINY, write_model

from kdjax import checkpoints, models
from kdjax.checkpoints import native, opening
from kdjax.checkpoints.hf import directory as hugging_face
from kdjax.checkpoints.hf.translate import canonical
from kdjax.config import MeshConfig
from kdjax.core.errors import UsageError
from kdjax.experiment import setting
from kdjax.experiment.students import open_student, start_students
from kdjax.formats import gguf as gguf_header
from kdjax.formats import safetensors as weights
from kdjax.models import build
from kdjax.parallel.sharding import make_mesh
from kdjax.text.tokenizer import load_tokenizer

PACKAGE = pathlib.Path(__file__).parents[1] / "kdjax"
KINDS = {
    "workdir": "run",
    "run": "run/student-3",
    "native": "run/student-3/model",
    "hugging_face": "exported",
    "gguf": "model.gguf",
}
FORMATS = ("native", "hugging_face", "gguf")
END = "<|endoftext|>"


def write_gguf(path, directory, tokenizer):
    """Writes what a directory in the Hugging Face format holds as a GGUF file."""
    values = json.loads((directory / "config.json").read_text())
    tensors = converted(load_file(directory / "model.safetensors"), values, "llama")
    content = json.loads(tokenizer.tokenizer.to_str())["model"]
    vocab, merges = content["vocab"], content["merges"]
    words = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": sorted(vocab, key=vocab.get),
        "tokenizer.ggml.token_type": [3] + [1] * (len(vocab) - 1),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.eos_token_id": tokenizer.end_of_text,
    }
    write(path, "llama", metadata(values, "llama") | words, tensors)


@pytest.fixture
def written(tmp_path):
    """Writes one model in all formats; returns it, its parameters and tokenizer."""
    model, params, tokenizer = write_model(tmp_path / KINDS["native"])
    (tmp_path / "run" / "config.json").write_text('{"seed": 3}')  # as runs have it
    exported = tmp_path / "exported"
    models.save_pretrained(exported, model, params, tokenizer=tokenizer, card="")
    write_gguf(tmp_path / "model.gguf", exported, tokenizer)
    return model, params, tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_every_path_means_the_same_model(written, tmp_path, kind):
    model, params, tokenizer = written
    stored = models.open_model(str(tmp_path / KINDS[kind]))
    assert canonical(stored.config) == canonical(model.config)
    assert stored.formats == ["F32"]
    assert stored.stop_tokens == (tokenizer.end_of_text,)
    assert stored.shares_ids(tokenizer)
    ids = stored.tokenizer.encode_prompt("def main(é")
    assert ids == tokenizer.encode_prompt("def main(é")
    found, same = stored.load()
    jax.tree.map(np.testing.assert_array_equal, same, params)
    tokens = jnp.array([ids])
    np.testing.assert_array_equal(
        found.logits(same, tokens), model.logits(params, tokens)
    )
    again, same = models.load_pretrained(tmp_path / KINDS[kind])
    assert again.config == found.config
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_handle_places_its_parameters_by_rules(written, tmp_path, kind):
    mesh, rules = make_mesh(MeshConfig(1, 4, 2)), (("embed/tokens", (None, "fsdp")),)
    stored = models.open_model(tmp_path / KINDS[kind])
    model, params = stored.load(mesh, rules, "bfloat16")
    assert model.config.dtype == "bfloat16"
    assert params["embed"]["tokens"].sharding.spec == PartitionSpec(None, "fsdp")
    wanted = jax.tree.map(lambda x: x.astype("bfloat16"), written[1])
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    with pytest.raises(UsageError, match=r"dtype must be .* 'float16'"):
        stored.load(dtype="float16")


def test_the_home_directory_is_expanded(written, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models.open_model("~/model.gguf").formats == ["F32"]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_hash_is_that_of_the_files(written, tmp_path, kind):
    path = tmp_path / KINDS[kind]
    before = models.fingerprint(path)
    assert before == models.open_model(path).fingerprint
    if kind == "native":
        assert before == models.open_model(path).card["sha256"]
        shutil.rmtree(path)
        write_model(path, dataclasses.replace(TINY, layers=2))
    elif kind == "gguf":
        path.write_bytes(path.read_bytes() + b"\0")
    else:
        (path / "config.json").write_text((path / "config.json").read_text() + "\n")
    assert models.fingerprint(path) != before


def test_older_names_know_families_as_before(written, tmp_path):
    family, config = models.load_config(tmp_path / "exported")
    assert (family.name, config.width) == ("llama", 16)
    assert models.load_config(tmp_path / "model.gguf")[0].name == "llama"
    with pytest.raises(UsageError, match="has no family"):
        models.load_config(tmp_path / "run")
    paths = ("exported", "model.gguf", "run", "nowhere")
    found = [models.is_pretrained(tmp_path / path) for path in paths]
    assert found == [True, True, False, False]


def test_the_names_of_the_layer_above_are_the_same_functions():
    for name in checkpoints.__all__:
        if name != "StoredModel":
            assert getattr(models, name) is getattr(checkpoints, name)
            assert name in models.__all__
    assert not hasattr(models, "open_weights")


@pytest.fixture
def counted(monkeypatch):
    """Counts how often each file's header is parsed, by the file's name."""
    counts = collections.Counter()

    def count(module, name):
        function = getattr(module, name)

        def wrapped(*arguments):
            (path,) = (a for a in arguments if isinstance(a, str | os.PathLike))
            counts[pathlib.Path(path).name] += 1
            return function(*arguments)

        monkeypatch.setattr(module, name, wrapped)

    for module, name in (
        (gguf_header, "_Cursor"),
        (hugging_face, "read_json"),
        (opening, "read_json"),
        (weights, "_open_file"),
        (native, "load_card"),
    ):
        count(module, name)
    return counts


def ask_all(stored):
    """Asks a handle for all it knows, and loads it."""
    answers = stored.config, stored.formats, stored.fingerprint, stored.stop_tokens
    assert stored.shares_ids(stored.tokenizer)
    stored.load()
    return answers


def test_a_handle_reads_every_header_once(written, tmp_path, counted):
    for kind, header in (
        ("hugging_face", {"config.json": 1, "model.safetensors": 1}),
        ("gguf", {"model.gguf": 1}),
        ("native", {"model": 1}),
    ):
        counted.clear()
        stored = models.open_model(tmp_path / KINDS[kind])
        assert ask_all(stored) == ask_all(stored)
        read = {name: counted[name] for name in header}
        if kind == "native":  # once to know the model, and once for each load
            read["model"] -= 2
        assert read == header


def test_a_run_s_tokenizer_and_its_teacher_share_one_header(written, tmp_path, counted):
    path = tmp_path / "model.gguf"
    tokenizer = load_tokenizer(path, END)
    assert models.open_model(path).shares_ids(tokenizer)
    models.load_pretrained(path)
    assert counted == {"model.gguf": 1}
    shutil.copy(path, tmp_path / "other.gguf")
    with path.open("ab") as file:  # another file of that name
        file.write(b"\0")
    load_tokenizer(path, END)
    assert counted == {"model.gguf": 2}


@pytest.mark.parametrize("kind", KINDS)
def test_an_experiment_opens_a_path_once(written, tmp_path, kind, monkeypatch):
    opened, path = [], tmp_path / KINDS[kind]

    def counting(path, **options):
        opened.append(path)
        return models.open_model(path, **options)

    monkeypatch.setattr(setting, "open_model", counting)
    both = make_setting(path, written[2], student=path)
    teacher = load_teacher(both)
    jax.tree.map(np.testing.assert_array_equal, teacher.params, written[1])
    assert teacher.sha256 == models.fingerprint(path)
    assert teacher.formats == ("F32",)
    model, stored = build(architecture_of(both)), open_student(both)
    start = start_students(model, stored, teacher, both)
    jax.tree.map(np.testing.assert_array_equal, start.params(), written[1])
    assert opened == [str(path)]


def test_mistakes_name_what_gave_the_path(written, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("nowhere", "config.teacher.path=.*nowhere does not exist"),
        ("empty", "holds no model; config.teacher.path must be a run's workdir"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            architecture_of(make_setting(tmp_path / name, written[2]))
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"path=nowhere does not exist"):
        models.open_model("nowhere")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda model: (model / "model.json").write_text("{"), "cannot be read"),
        (lambda model: (model / "model.json").write_text("[]"), "a JSON object"),
        (lambda model: (model / "model.json").write_text("{}"), "not written by kdjax"),
        (lambda model: (model / "params" / "_METADATA").write_text(""), "changed or"),
        (lambda model: (model / "tokenizer.json").write_text(""), "changed or"),
    ],
)
def test_a_damaged_model_of_ours_is_refused(written, tmp_path, damage, words):
    damage(tmp_path / KINDS["native"])
    with pytest.raises(UsageError, match=words) as caught:
        ask_all(models.open_model(tmp_path / "run"))
    assert "\n" not in str(caught.value)


def test_a_model_that_is_saved_anew_can_be_read_all_the_time(
    written, tmp_path, monkeypatch
):
    directory, (_, params, _) = epath.Path(tmp_path / KINDS["native"]), written
    others = jax.tree.map(lambda x: x + 1, params)
    write, restore = native.write_json, native._restore

    def write_last(path, card):
        _, found = models.load_pretrained(directory)
        jax.tree.map(np.testing.assert_array_equal, found, params)
        write(path, card)

    monkeypatch.setattr(native, "write_json", write_last)
    native.save_model(directory, others, native.load_card(directory))
    assert [path.name for path in directory.glob("params*")] == ["params-2"]
    monkeypatch.setattr(native, "write_json", write)

    def restore_late(directory, card, like):
        monkeypatch.setattr(native, "_restore", restore)
        native.save_model(directory, params, card)
        return restore(directory, card, like)

    monkeypatch.setattr(native, "_restore", restore_late)
    _, found = models.load_pretrained(directory)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert [path.name for path in directory.glob("params*")] == ["params-3"]
    native.discard_damaged(directory)
    assert native.is_model(directory)
    (directory / "params-3" / "_METADATA").write_text("")
    native.discard_damaged(directory)
    assert not directory.exists()


def test_a_tokenizer_that_is_not_there_is_missed_only_where_it_is_needed(
    written, tmp_path
):
    (tmp_path / "exported" / "tokenizer.json").unlink()
    stored = models.open_model(tmp_path / "exported")
    stored.load()
    with pytest.raises(UsageError, match=r"tokenizer\.json is missing"):
        _ = stored.tokenizer


def test_ids_become_text_without_what_is_special(written):
    tokenizer = written[2]
    ids = np.array([*tokenizer.encode_prompt("naïve — 東京"), tokenizer.end_of_text])
    assert tokenizer.decode(ids) == "naïve — 東京"
    assert tokenizer.decode([]) == ""


# Whose a model is, is asked in one place; whether a run has finished one, and which
# kind a tokenizer's file is or an export's shall be, are other questions.
ASKING = {
    "is_model": {
        "checkpoints/native.py",
        "checkpoints/opening.py",
        "experiment/runs.py",
        "experiment/shared.py",
        "experiment/teachers.py",
        "export.py",
    },
    "is_claimed": {"checkpoints/opening.py"},
    ".gguf": {
        "checkpoints/gguf/save.py",
        "checkpoints/hub.py",
        "checkpoints/opening.py",
        "export.py",
        "text/tokenizer.py",
    },
    "model_type": {
        "checkpoints/hf/directory.py",
        "checkpoints/gguf/metadata.py",
        "checkpoints/hf/translate.py",
        "text/older.py",
    },
    "model.json": {"checkpoints/native.py", "text/tokenizer.py"},
}


def test_nothing_else_asks_whose_a_model_is():
    found = collections.defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            word = getattr(node, "attr", getattr(node, "id", None))
            if isinstance(node, ast.Constant):
                word = node.value
            if isinstance(word, str) and word in ASKING:
                found[word].add(path.relative_to(PACKAGE).as_posix())
    assert found == ASKING
