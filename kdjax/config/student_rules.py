"""What a student's architecture has from its teacher's."""

import dataclasses

from kdjax.config.schema import ModelConfig, StudentConfig
from kdjax.core.errors import UsageError

_PATH = "config.student.model"
# What a student may have less of.
_SIZES = ("layers", "width", "heads", "kv_heads", "ffn_width")
# How a model is computed, which is each model's own affair.
_FREE = ("dtype", "remat", "attention")


def student_model(student: StudentConfig, teacher: ModelConfig) -> ModelConfig:
    """Returns the student's architecture with what it has from the teacher filled in.

    Of a student that is cut, the windows are only right once its layers are known.

    Args:
        student: The config's.
        teacher: The teacher's architecture, found or configured.

    Raises:
        UsageError: It is to be cut out of the teacher, and is no part of it.
    """
    model = student.model
    if not student.is_pruned:
        sizes = {
            name: getattr(model, name) or getattr(teacher, name)
            for name in ("layers", "width", "heads")
        }
        return dataclasses.replace(model, **sizes)
    if student.layer_map:
        _check_map(student.layer_map, model.layers, teacher.layers)
        model = dataclasses.replace(model, layers=len(student.layer_map))
    whole = {
        "layers": max(teacher.layers, len(student.layer_map)),
        "width": teacher.width,
        "heads": teacher.heads,
        "kv_heads": _kv_heads(model.heads or teacher.heads, teacher),
        "ffn_width": teacher.width_of_ffn,
    }
    sizes = {name: getattr(model, name) or whole[name] for name in _SIZES}
    _check_sizes(sizes, whole, teacher)
    teacher = dataclasses.replace(teacher, head_width=teacher.width_of_head)
    for field in dataclasses.fields(ModelConfig):
        value, inherited = getattr(model, field.name), getattr(teacher, field.name)
        is_own = field.name in (*_SIZES, *_FREE)
        if not is_own and value not in (field.default, inherited):
            raise UsageError(
                f"{_PATH}.{field.name} = {value!r} cannot be cut out of a teacher that "
                f"has {inherited!r}; leave it at its default"
            )
    return computed_as(model, dataclasses.replace(teacher, **sizes))


def computed_as(model: ModelConfig, architecture: ModelConfig) -> ModelConfig:
    """Returns an architecture that is computed as `model` is."""
    own = {name: getattr(model, name) for name in _FREE}
    return dataclasses.replace(architecture, **own)


def _kv_heads(heads: int, teacher: ModelConfig) -> int:
    """Returns how many key-value heads there are if whole groups go."""
    queries = teacher.heads // teacher.key_value_heads
    return max(heads // queries, 1)


def _check_map(layer_map: tuple[int, ...], layers: int, total: int) -> None:
    path = "config.student.layer_map"
    if layers not in (0, len(layer_map)):
        raise UsageError(
            f"{path} names {len(layer_map)} layers, {_PATH}.layers = {layers}; leave "
            "that at 0"
        )
    for layer in layer_map:
        if not 0 <= layer < total:
            raise UsageError(
                f"{path} names layer {layer}; the teacher's are 0 to {total - 1}"
            )


def _check_sizes(
    sizes: dict[str, int], whole: dict[str, int], teacher: ModelConfig
) -> None:
    """Raises unless a teacher of sizes `whole` can be cut to `sizes`."""
    for name, size in sizes.items():
        most = teacher.key_value_heads if name == "kv_heads" else whole[name]
        if not 0 < size <= most:
            raise UsageError(
                f"{_PATH}.{name} = {size} cannot be cut out of a teacher that has "
                f"{most}; choose 1 to {most}, or 0 for all"
            )
    queries = teacher.heads // teacher.key_value_heads
    heads, kv_heads = sizes["heads"], sizes["kv_heads"]
    if heads % kv_heads or heads // kv_heads > queries:
        raise UsageError(
            f"{_PATH}.heads = {heads} with kv_heads = {kv_heads} cannot be cut out of "
            f"a teacher with {queries} queries to a key-value head; choose a multiple "
            f"of kv_heads, at most {queries} times it"
        )
