"""A model on disk with all that speaking needs, whoever wrote it."""

import dataclasses
from typing import Any, NamedTuple

import jax
from etils import epath

from kdjax import checkpoint
from kdjax.config import ModelConfig
from kdjax.data import TextTokenizer, load_tokenizer, read_stops, tokenizer_file
from kdjax.errors import UsageError
from kdjax.models import Model, build, is_pretrained, load_pretrained
from kdjax.parsing import from_mapping


class Saved(NamedTuple):
    """A model that can speak.

    Attributes:
        model: What it computes.
        params: With what.
        tokenizer: What its ids mean.
        stops: Ids that end a text.
    """

    model: Model
    params: Any
    tokenizer: TextTokenizer
    stops: frozenset[int]


def find_model(path: epath.Path) -> epath.Path:
    """Returns where the model lies that a path means.

    Args:
        path: A model itself, the directory of one training, or an experiment's
            workdir, of which the first student is meant.

    Raises:
        UsageError: There is no model, or none that is finished.
    """
    if not path.exists():
        raise UsageError(f"--checkpoint={path} does not exist")
    if checkpoint.is_model(path) or is_pretrained(path):
        return path
    students = [p for p in path.glob("student-*") if p.name[8:].isdigit()]
    students.sort(key=lambda student: int(student.name[8:]))
    for directory in (path, *students):
        if checkpoint.is_model(directory / "model"):
            return directory / "model"
    if students or (path / "checkpoints").exists():
        raise UsageError(
            f"{path} holds no finished model; students have theirs at the end of their "
            "training, and report/report.json says where the teacher lies"
        )
    raise UsageError(
        f"{path} holds no model; --checkpoint must be a run's workdir, a model "
        "directory that kdjax wrote, one in the Hugging Face format or a .gguf file"
    )


def load_saved(path: epath.Path) -> Saved:
    """Returns the model at a place that `find_model` found, on the first device.

    Raises:
        UsageError: Something is missing, damaged or does not belong together.
    """
    return _load_own(path) if checkpoint.is_model(path) else _load_pretrained(path)


def _load_own(directory: epath.Path) -> Saved:
    card = checkpoint.load_card(directory)
    source = f"{directory}/model.json"
    config = from_mapping(ModelConfig, card["model"], source)
    # The kernel that a model was trained with may be missing here.
    model = build(dataclasses.replace(config, attention="auto"))
    tokenizer = load_tokenizer(directory / "tokenizer.json", card["end_of_text"])
    if tokenizer.sha256 != card["tokenizer"]:
        raise UsageError(f"{directory}/tokenizer.json was changed or damaged")
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    where = jax.tree.map(lambda _: one, shapes)
    params = checkpoint.load_params(directory, checkpoint.abstract(shapes, where))
    return Saved(model, params, tokenizer, frozenset(tokenizer.stops))


def _load_pretrained(path: epath.Path) -> Saved:
    stops = read_stops(path)
    tokenizer = load_tokenizer(tokenizer_file(path), stops[0])
    return Saved(*load_pretrained(path), tokenizer, frozenset(stops))
