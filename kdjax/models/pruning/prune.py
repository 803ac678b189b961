"""A student pruned from its teacher: fewer layers, heads and channels.

`choose` decides which parts to keep, and `prune` extracts them. Kept parts stay in
order, so pruning nothing is the identity.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.config.architecture import ModelConfig
from kdjax.models.model import Params
from kdjax.models.pruning.importance import Importance
from kdjax.parallel.placement import name_of

Layers = Literal["every_kth", "first_last", "importance"] | Sequence[int]
Indices = list[Any]  # nested lists, because they are stored as JSON


class Parts(NamedTuple):
    """The parts of its teacher that a student keeps; None: all parts of this kind.

    Attributes:
        layers: [n], ascending unless the user chose another order.
        width: [d], channels of the residual stream.
        heads: [n, h], query heads of each kept layer.
        kv_heads: [n, g], key-value heads of each kept layer.
        ffn: [n, f], FFN channels of each kept layer.
        gains: Maps the end of a parameter's path to a factor, or one per layer.
    """

    layers: Indices
    width: Indices | None = None
    heads: Indices | None = None
    kv_heads: Indices | None = None
    ffn: Indices | None = None
    gains: dict[str, Any] | None = None


# Which kept parts index which dimension of a parameter; first match wins. A dot is a
# dimension that is never pruned; the layer axis of scanned blocks is left out.
_DIMENSIONS = (
    (r"embed/(tokens|positions)$", ". width"),
    (r"head/kernel$", "width ."),
    (r"(query|key)_norm/scale$", "."),
    (r"norm/(scale|bias)$", "width"),
    (r"query/kernel$", "width heads ."),
    (r"query/bias$", "heads ."),
    (r"(key|value)/kernel$", "width kv_heads ."),
    (r"(key|value)/bias$", "kv_heads ."),
    (r"out/kernel$", "heads . width"),
    (r"(up|gate)/kernel$", "width ffn"),
    (r"(up|gate)/bias$", "ffn"),
    (r"down/kernel$", "ffn width"),
    (r"(out|down)/bias$", "width"),
)


def needs_importance(
    teacher: ModelConfig, student: ModelConfig, layers: Layers
) -> bool:
    """Returns whether `choose` needs importance: to rank layers or prune widths."""
    return layers == "importance" or _sizes(student) != _sizes(teacher)


def choose(
    teacher: ModelConfig,
    student: ModelConfig,
    layers: Layers,
    importance: Importance | None = None,
) -> Parts:
    """Returns which parts of the teacher a student of these sizes keeps.

    - "every_kth": evenly spaced layers, including the first and the last.
    - "first_last": half of the layers from the start, half from the end.
    - "importance": layers of highest block influence (ShortGPT, arXiv:2403.03853).
    - Indices: these layers, in the student's order.

    Heads are pruned by group: the key-value heads whose query heads matter most in
    total are kept, each with equally many query heads. FFN channels and heads are
    chosen per layer, channels of the residual stream once for all layers (Minitron,
    arXiv:2407.14679).

    Args:
        teacher: The teacher's architecture.
        student: The student's architecture, no dimension larger than the teacher's.
        layers: How layers are chosen.
        importance: From `measure`; without it only layers can be dropped.

    Raises:
        ValueError: Importance is needed but missing.

    Example:
        >>> deep, shallow = ModelConfig(layers=12), ModelConfig(layers=6)
        >>> choose(deep, shallow, "every_kth").layers
        [0, 2, 4, 7, 9, 11]
    """
    kept = _layers(teacher.layers, student.layers, layers, importance)
    if not needs_importance(teacher, student, layers):
        return Parts(kept)
    if importance is None:
        raise ValueError("to drop heads or channels, measure their importance first")
    parts: dict[str, Any] = {}
    if student.width < teacher.width:
        width = _most(importance.width, student.width)
        parts["width"] = width.tolist()
        parts["gains"] = _gains(teacher, width, kept, importance)
    if student.width_of_ffn < teacher.width_of_ffn:
        parts["ffn"] = _most(importance.ffn[kept], student.width_of_ffn).tolist()
    if student.heads < teacher.heads:
        parts |= _heads(teacher, student, importance.heads[kept])
    return Parts(kept, **parts)


def describe(teacher: ModelConfig, student: ModelConfig, parts: Parts) -> str:
    """Describes the parts of its teacher that a student keeps.

    Example:
        >>> whole = ModelConfig(layers=6, heads=8, ffn_width=512)
        >>> part = ModelConfig(layers=3, heads=8, ffn_width=384)
        >>> describe(whole, part, Parts([0, 2, 5]))
        'layers 0, 2, 5 of 6; 384 of 512 FFN channels'
    """
    layers = f"layers {', '.join(map(str, parts.layers))} of {teacher.layers}"
    if list(parts.layers) == list(range(teacher.layers)):
        layers = f"all {teacher.layers} layers"
    names = ("channels", "heads", "key-value heads", "FFN channels")
    kept = zip(_sizes(student), _sizes(teacher), names, strict=True)
    sizes = (f"{few:,} of {all_:,} {name}" for few, all_, name in kept if few < all_)
    return "; ".join((layers, *sizes))


def _sizes(config: ModelConfig) -> tuple[int, ...]:
    return config.width, config.heads, config.key_value_heads, config.width_of_ffn


def _layers(
    total: int, count: int, how: Layers, importance: Importance | None
) -> list[int]:
    if how == "every_kth":
        return np.linspace(0, total - 1, count).round().astype(int).tolist()
    if how == "first_last":
        first = -(-count // 2)
        return [*range(first), *range(total - count + first, total)]
    if how == "importance":
        if importance is None:
            raise ValueError("to drop layers by importance, measure it first")
        return _most(importance.layers, count).tolist()
    return [int(layer) for layer in how]


def _most(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of the largest scores on the last axis, ascending."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    return np.sort(order[..., :count], axis=-1)


def _heads(
    teacher: ModelConfig, student: ModelConfig, scores: np.ndarray
) -> dict[str, Indices]:
    """Returns the kept key-value heads and equally many query heads for each."""
    queries = teacher.heads // teacher.key_value_heads
    grouped = scores.reshape(len(scores), teacher.key_value_heads, queries)
    groups = _most(grouped.sum(-1), student.key_value_heads)
    within = np.take_along_axis(grouped, groups[..., None], axis=1)
    chosen = _most(within, student.heads // student.key_value_heads)
    heads = (groups[..., None] * queries + chosen).reshape(len(scores), -1)
    return {"heads": heads.tolist(), "kv_heads": groups.tolist()}


def _gains(
    teacher: ModelConfig, width: np.ndarray, layers: list[int], importance: Importance
) -> dict[str, Any]:
    """Returns factors that compensate for norms over fewer channels.

    A norm over the kept channels divides by the root of *their* mean square, which is
    the teacher's times share * D / d. If only dead channels are pruned, share is 1 and
    the function is the teacher's. A layernorm also requires that the mean is the same
    without them and that they have no bias.
    """
    ratio = teacher.width / len(width)
    gains = {}
    for name, powers in importance.powers.items():
        share = powers[..., width].sum(-1) / np.maximum(powers.sum(-1), 1e-30)
        gain = np.sqrt(share * ratio)
        gains[f"{name}/scale"] = (gain[layers] if gain.ndim else gain).tolist()
    if teacher.scale_embeddings:  # by the root of the width, which has changed
        gains["embed/tokens"] = math.sqrt(ratio)
        if teacher.tie_embeddings:
            gains["final_norm/scale"] /= math.sqrt(ratio)
    return gains


def prune(
    teacher: ModelConfig,
    params: Params,
    student: ModelConfig,
    parts: Parts,
    *,
    shardings: Any = None,
) -> tuple[ModelConfig, Params]:
    """Returns the student's architecture and its parameters, in float32.

    Args:
        teacher: The teacher's architecture.
        params: The teacher's parameters, on any devices.
        student: The student's architecture; its windows come from the kept layers.
        parts: The parts that the student keeps, from `choose`.
        shardings: Of the student's parameters; None leaves them to the compiler.
    """

    def take(params: Params) -> Params:
        def part(path: Any, x: jax.Array) -> jax.Array:
            return _part(teacher, parts, name_of(path), x)

        return jax.tree_util.tree_map_with_path(part, params)

    params = jax.jit(take, out_shardings=shardings)(params)
    return with_windows(teacher, student, parts), params


def with_windows(
    teacher: ModelConfig, student: ModelConfig, parts: Parts
) -> ModelConfig:
    """Returns the student's architecture with the windows of the layers it keeps."""
    windows = tuple(teacher.layer_windows[layer] for layer in parts.layers)
    if len(set(windows)) == 1:
        windows = windows[:1]
    return dataclasses.replace(student, layers=len(parts.layers), windows=windows)


def _part(teacher: ModelConfig, parts: Parts, name: str, x: jax.Array) -> jax.Array:
    """Returns the part of one parameter that the student keeps."""
    dimensions = next(
        found for pattern, found in _DIMENSIONS if re.search(pattern, name)
    ).split()
    is_stacked = name.startswith("layers/")
    if is_stacked:
        x = x[np.array(parts.layers)]
    for axis, dimension in enumerate(dimensions, start=int(is_stacked)):
        indices = None if dimension == "." else getattr(parts, dimension)
        if indices is None:
            continue
        kept = np.array(indices)
        if kept.ndim == 1:
            x = jnp.take(x, kept, axis)
        else:  # chosen per layer
            shape = [
                len(kept) if i == 0 else -1 if i == axis else 1 for i in range(x.ndim)
            ]
            x = jnp.take_along_axis(x, kept.reshape(shape), axis)
    # Copy even unpruned parameters: training will overwrite them.
    x = jnp.array(x, jnp.float32, copy=True)
    gain = (parts.gains or {}).get("/".join(name.split("/")[-2:]))
    if gain is None:
        return x
    gain = jnp.expand_dims(jnp.float32(gain), range(np.ndim(gain), x.ndim))
    is_offset = teacher.norm_offset and name.endswith("scale")
    return (1 + x) * gain - 1 if is_offset else x * gain
