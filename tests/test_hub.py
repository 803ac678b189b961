"""A name on the Hugging Face hub is a model: cached, downloaded once, or one line."""

import hashlib
import http.server
import json
import re
import shutil
import socket
import threading
import time

import jax
import numpy as np
import pytest
import runs
from huggingface_hub import constants
from toys import random_params

from kdjax import models
from kdjax.checkpoints import hub
from kdjax.config import ModelConfig, TokenizerConfig
from kdjax.core.errors import UsageError
from kdjax.text.tokenizer import train_tokenizer

NAME, COMMIT, OLD = "some-org/Tiny-0.1B", "c0ffee" + "0" * 34, "0dd" + "0" * 37
BYTES = train_tokenizer((), TokenizerConfig(kind="bytes"))
ARCHITECTURE = ModelConfig(layers=1, width=16, heads=2, vocab_size=257)
# Of which kdjax reads none.
OTHERS = (
    "README.md",
    "pytorch_model.bin",
    "consolidated.safetensors",
    "tiny.Q4_1.gguf",
    "onnx/config.json",
    "original/model.safetensors",
)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as downloads use."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def log_message(self, *arguments):
        pass

    def answer(self):
        self.server.requests.append(self.path)
        path = self.path.partition("?")[0]
        commits = {"main": COMMIT, COMMIT: COMMIT, "v1": OLD, OLD: OLD}
        if found := re.fullmatch(f"/api/models/{NAME}(?:/revision/(.+))?", path):
            commit = commits.get(found[1] or "main")
            content = json.dumps(
                {
                    "id": NAME,
                    "sha": commit,
                    "siblings": [{"rfilename": name} for name in self.server.files],
                }
            ).encode()
        elif found := re.fullmatch(f"/api/models/{NAME}/tree/([^/]+)", path):
            commit = commits.get(found[1])
            tree = [
                {"type": "file", "path": name, "size": len(file), "oid": "0" * 40}
                for name, file in self.server.files.items()
            ]
            content = json.dumps(tree).encode()
        elif found := re.fullmatch(f"/{NAME}/resolve/([^/]+)/(.+)", path):
            commit, content = commits.get(found[1]), self.server.files.get(found[2])
        else:
            commit = content = None
        self.send_response(404 if commit is None or content is None else 200)
        content = content or b"{}"
        self.send_header("X-Repo-Commit", commit or "")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model in the Hugging Face format that reads bytes."""
    path = tmp_path_factory.mktemp("hub") / "model"
    model = models.build(ARCHITECTURE)
    models.save_pretrained(
        path, model, random_params(model), tokenizer=BYTES, card="# A model\n"
    )
    return path


def point_to(endpoint, monkeypatch):
    """Moves the hub; its address is part of two constants."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(
        constants.ENDPOINT, endpoint
    )
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)


@pytest.fixture
def cache(home, monkeypatch):
    """An empty cache of the hub, which cannot be reached."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    point_to(nowhere, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return home / "hub"


@pytest.fixture
def server(cache, directory, monkeypatch):
    """A hub that holds the model, and more files than anybody needs."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests = []
    server.files = {file.name: file.read_bytes() for file in directory.iterdir()}
    server.files |= dict.fromkeys(OTHERS, b"unused")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    point_to(endpoint, monkeypatch)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def snapshot(cache, commit=COMMIT):
    return cache / f"models--{NAME.replace('/', '--')}" / "snapshots" / commit


def test_a_name_is_downloaded_once_with_nothing_that_is_not_read(
    server, cache, directory, monkeypatch, capsys
):
    stored = models.open_model(NAME)
    assert f"downloading {NAME}@{COMMIT}" in capsys.readouterr().err
    expected = models.load_pretrained(directory)[1]
    jax.tree.map(np.testing.assert_array_equal, stored.load()[1], expected)
    assert stored.tokenizer.sha256 == BYTES.sha256
    found = {file.name for file in stored.path.iterdir()}
    assert found < server.files.keys() and not found & set(OTHERS)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= found
    assert hub.name_of(stored.path) == f"{NAME}@{COMMIT}"
    asked = len(server.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert models.open_model(NAME).path == stored.path
    assert hub.find_tokenizer(NAME, named="x") == stored.tokenizer_path
    assert len(server.requests) == asked


def test_a_revision_is_that_one_and_another_is_not_taken_for_it(server, cache):
    stored = models.open_model(f"{NAME}@v1")
    assert hub.name_of(stored.path) == f"{NAME}@{OLD}"
    assert hub.name_of(models.open_model(NAME).path) == f"{NAME}@{COMMIT}"
    with pytest.raises(UsageError, match=rf"path={NAME}@v2 .* --revision v2 "):
        models.open_model(f"{NAME}@v2")


def test_shards_are_those_of_the_index(server, cache, directory):
    weights = server.files.pop("model.safetensors")
    server.files["shard-a.safetensors"] = weights
    index = {"weight_map": {"x": "shard-a.safetensors"}}
    server.files["model.safetensors.index.json"] = json.dumps(index).encode()
    server.files["model-old.safetensors"] = b"unused"
    found = hub.find_model(NAME, named="x").directory
    names = {file.name for file in found.glob("*.safetensors")}
    assert names == {"shard-a.safetensors"}
    (found / "shard-a.safetensors").unlink()  # as a download that was stopped leaves it
    assert hub.find_model(NAME, named="x").directory == found
    assert (found / "shard-a.safetensors").exists()


def test_a_tokenizer_s_name_downloads_no_weights(server, cache):
    path = hub.find_tokenizer(NAME, named="config.tokenizer.path")
    assert path.read_bytes() == server.files["tokenizer.json"]
    assert not list(path.parent.glob("*.safetensors"))
    del server.files["tokenizer.json"]
    shutil.rmtree(cache)
    with pytest.raises(UsageError, match=r"config\.tokenizer\.path=.* no tokenizer"):
        hub.find_tokenizer(NAME, named="config.tokenizer.path")


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (".gguf", "GGUF files; download one of them"),
        (".bin", "neither model.safetensors"),
    ],
)
def test_a_model_in_other_formats_is_not_downloaded(server, cache, kept, words):
    for file in list(server.files):
        if not file.endswith((kept, ".json")):
            del server.files[file]
    with pytest.raises(UsageError, match=words):
        models.open_model(NAME)
    assert not cache.exists()


@pytest.mark.parametrize("is_offline", [False, True])
def test_without_a_network_there_is_one_line_at_once(cache, monkeypatch, is_offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    begin = time.monotonic()
    with pytest.raises(UsageError) as caught:
        models.open_model(NAME, named="--checkpoint")
    assert time.monotonic() - begin < 5
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"--checkpoint={NAME} is nei")
    assert len(message) < 400
    assert f"hf download {NAME} --include '*.json'" in message
    assert ("offline mode" in message) is is_offline


def test_what_may_be_a_path_is_never_asked_for(server, cache, home):
    (home / "models").mkdir()
    for path in (
        *("models/Tiny", "runs/tiny", "tiny", "./some-org/Tiny", "~/some-org/Tiny"),
        *("/some-org/Tiny", "some-org/Tiny/student-0", "some-org/tiny.gguf", ""),
        *("../some-org/Tiny", "some-org/", "some-org/Tiny@", "some org/Tiny", ".a/b"),
        *("some-org/model.safetensors", "https://huggingface.co/some-org/Tiny"),
    ):
        assert not hub.is_name(path)
        with pytest.raises(UsageError):
            models.open_model(path, named="--checkpoint")
    assert server.requests == []


def test_a_directory_of_that_name_is_the_model(server, cache, home, directory):
    shutil.copytree(directory, home / NAME)
    assert models.open_model(NAME).config.width == 16
    assert server.requests == []


def test_an_experiment_names_its_teacher_and_its_tokenizer(server, cache, texts, home):
    """The report tells which commit the teacher was."""
    env = runs.environment(
        HF_ENDPOINT=constants.ENDPOINT, HF_HUB_CACHE=str(cache), HF_HUB_DISABLE_XET="1"
    )
    flags = [
        f"--config.teacher.path={NAME}@v1",
        "--config.tokenizer.kind=file",
        f"--config.tokenizer.path={NAME}@v1",
        *("--config.student.train.steps=2", "--config.baseline=False"),
    ]
    done = runs.run(*runs.experiment(texts, "run", *flags), env=env, timeout=300)
    assert f"downloading {NAME}@{OLD}" in done.stderr
    (teacher,) = runs.read_report("run")["teachers"].values()
    assert teacher["hub"] == f"{NAME}@{OLD}" and OLD in teacher["path"]
    config = json.loads((home / "run" / "config.json").read_text())
    assert config["tokenizer"]["path"] == f"{NAME}@v1"
