"""Opens a model by its path; only this module tells the formats apart."""

from etils import epath
from jax.sharding import Mesh

from kdjax.checkpoints.gguf.file import GgufModel
from kdjax.checkpoints.handle import StoredModel
from kdjax.checkpoints.hf.directory import CONFIG, HuggingFaceModel
from kdjax.checkpoints.hf.families import Family
from kdjax.checkpoints.hub import find_model, is_name
from kdjax.checkpoints.native import NativeModel, is_model
from kdjax.checkpoints.places import check_place
from kdjax.checkpoints.pretrained import PretrainedModel
from kdjax.config.architecture import ModelConfig
from kdjax.config.schema import Rules
from kdjax.core.errors import UsageError
from kdjax.core.files import read_json
from kdjax.core.inputs import fetched
from kdjax.models.model import Model, Params


def open_model(path: epath.PathLike, *, named: str = "path") -> StoredModel:
    """Returns the model at a path.

    Args:
        path: A directory that kdjax wrote (a model, a run such as `RUN/twin-0`, or an
            experiment's workdir, which stands for its first student), one in the
            Hugging Face format, a .gguf file, or the name of a model on the Hugging
            Face hub, ORG/NAME or ORG/NAME@REVISION, which is downloaded unless it is
            in the hub's cache.
        named: The flag or key that gave the path, for error messages.

    Raises:
        UsageError: There is no model, it is unfinished or cannot be downloaded.
    """
    check_place(path, named=named)
    if is_name(str(path)):
        place = find_model(str(path), named=named).directory
    else:
        place = fetched(path)
    if place.suffix == ".gguf":
        return GgufModel(place)
    students = [p for p in place.glob("student-*") if p.name[8:].isdigit()]
    students.sort(key=lambda student: int(student.name[8:]))
    for directory in (place, *(run / "model" for run in (place, *students))):
        if is_model(directory):
            return NativeModel(directory)
    if (found := HuggingFaceModel(place)).is_claimed:
        return found
    if students or (place / "checkpoints").exists():
        raise UsageError(
            f"{place} holds no finished model; students write theirs at the end of "
            "training, and report/report.json gives the teacher's path"
        )
    if (place / CONFIG).exists():
        read_json(place / CONFIG)  # raises if the file itself is damaged
    raise UsageError(
        f"{place} holds no model; {named} must be a run's workdir, a directory in it, "
        "a model directory that kdjax wrote, one in the Hugging Face format "
        f"({CONFIG} with a model_type) or a .gguf file"
    )


def load_pretrained(
    path: epath.PathLike,
    *,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    dtype: str | None = None,
) -> tuple[Model, Params]:
    """Returns a model on disk and its parameters: `open_model` and `load` in one.

    Every process reads the bytes of its own shards only. Nothing is returned unless
    everything is valid.

    Args:
        path: Any path that `open_model` accepts.
        mesh: The devices for the parameters; None: the first device.
        rules: Sharding rules that take precedence over the default ones.
        dtype: Of parameters and computation, as in `StoredModel.load`.

    Raises:
        UsageError: Files are missing or damaged, a tensor is missing, unexpected,
            wrongly shaped or not finite, or the family is unknown.
    """
    return open_model(path).load(mesh, rules or (), dtype)


def load_config(path: epath.PathLike) -> tuple[Family, ModelConfig]:
    """Returns the family and the architecture of a pretrained model.

    Raises:
        UsageError: There is no model, or not one of a known family.
    """
    stored = open_model(path)
    if not isinstance(stored, PretrainedModel):
        raise UsageError(
            f"{stored.path} was written by kdjax and has no family; its architecture "
            "is open_model(path).config"
        )
    return stored.family, stored.config


def is_pretrained(path: epath.PathLike) -> bool:
    """Returns whether a path appears to hold a published model."""
    try:
        return isinstance(open_model(path), PretrainedModel)
    except UsageError:
        return False


def stored_formats(path: epath.PathLike) -> list[str]:
    """Returns the formats of a model's weights, the most common first.

    They are named as in the file, such as "BF16" or, for 4-bit weights, "Q4_1".
    """
    return open_model(path).formats


def fingerprint(path: epath.PathLike) -> str:
    """Returns one hash over the architecture and the weights of a model."""
    return open_model(path).fingerprint
