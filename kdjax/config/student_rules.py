"""What a student's architecture takes from its teacher's."""

import dataclasses

from kdjax.config.architecture import ModelConfig
from kdjax.config.schema import StudentConfig
from kdjax.core.errors import UsageError

_PATH = "config.student.model"
# What pruning may make smaller.
_SIZES = ("layers", "width", "heads", "kv_heads", "ffn_width")
# How a model is computed, which each model chooses for itself.
_FREE = ("dtype", "remat", "attention")


def student_model(student: StudentConfig, teacher: ModelConfig) -> ModelConfig:
    """Returns the student's architecture with the teacher's values filled in.

    The windows of a pruned student are correct only once its layers are known.

    Args:
        student: The student's config.
        teacher: The teacher's architecture, loaded or configured.

    Raises:
        UsageError: It cannot be pruned from the teacher.
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
                f"{_PATH}.{field.name} = {value!r} cannot be pruned from a teacher "
                f"that has {inherited!r}; leave it at its default"
            )
    return computed_as(model, dataclasses.replace(teacher, **sizes))


def computed_as(model: ModelConfig, architecture: ModelConfig) -> ModelConfig:
    """Returns the architecture, computed the way `model` is."""
    own = {name: getattr(model, name) for name in _FREE}
    return dataclasses.replace(architecture, **own)


def _kv_heads(heads: int, teacher: ModelConfig) -> int:
    """Returns how many key-value heads remain if whole groups are removed."""
    queries = teacher.heads // teacher.key_value_heads
    return max(heads // queries, 1)


def _check_map(layer_map: tuple[int, ...], layers: int, total: int) -> None:
    path = "config.student.layer_map"
    if layers not in (0, len(layer_map)):
        raise UsageError(
            f"{path} names {len(layer_map)} layers, but {_PATH}.layers = {layers}; "
            "leave that at 0"
        )
    for layer in layer_map:
        if not 0 <= layer < total:
            raise UsageError(
                f"{path} names layer {layer}; the teacher's are 0 to {total - 1}"
            )


def _check_sizes(
    sizes: dict[str, int], whole: dict[str, int], teacher: ModelConfig
) -> None:
    """Raises unless a teacher of sizes `whole` can be pruned to `sizes`."""
    for name, size in sizes.items():
        most = teacher.key_value_heads if name == "kv_heads" else whole[name]
        if not 0 < size <= most:
            raise UsageError(
                f"{_PATH}.{name} = {size} cannot be pruned from a teacher that has "
                f"{most}; choose 1 to {most}, or 0 for all"
            )
    queries = teacher.heads // teacher.key_value_heads
    heads, kv_heads = sizes["heads"], sizes["kv_heads"]
    if heads % kv_heads or heads // kv_heads > queries:
        raise UsageError(
            f"{_PATH}.heads = {heads} with kv_heads = {kv_heads} cannot be pruned from "
            f"a teacher with {queries} query heads per key-value head; choose a "
            f"multiple of kv_heads, at most {queries} times it"
        )
