"""The constraints on a transformer's configuration, checked before it is built."""

from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

from kdjax.config.architecture import (
    MOST_IDS,
    MOST_TOKENS,
    ModelConfig,
    RopeScalingConfig,
)
from kdjax.config.parsing import between, whole
from kdjax.config.schema import Config
from kdjax.core.errors import UsageError


class _Only(NamedTuple):
    """A key that does nothing unless another one has some value."""

    key: str
    serves: Callable[[ModelConfig], bool]
    condition: str


def _rotates(model: ModelConfig) -> bool:
    return model.positions == "rope"


def _is_llama3(model: ModelConfig) -> bool:
    return model.rope_scaling.kind == "llama3"


# The least and the most of each; no model known comes near the latter.
_SIZES = {
    "layers": (1, 10_000),
    "width": (1, 1 << 18),
    "heads": (1, 1 << 14),
    "kv_heads": (0, 1 << 14),
    "head_width": (0, 1 << 16),
    "ffn_width": (0, 1 << 20),
    "vocab_size": (0, MOST_IDS),
    "vocab_multiple": (1, 1 << 16),
    "max_length": (0, MOST_TOKENS),
}
_LARGEST = 1e12  # of any number that is not whole
_ROPE, _LLAMA3 = "positions = 'rope'", "rope_scaling.kind = 'llama3'"
_ONLY = (
    _Only("rope_theta", _rotates, _ROPE),
    _Only("rope_fraction", _rotates, _ROPE),
    _Only("rope_scaling.kind", _rotates, _ROPE),
    _Only(
        "rope_scaling.factor",
        lambda model: model.rope_scaling.kind != "none",
        "rope_scaling.kind = 'linear' or 'llama3'",
    ),
    _Only("rope_scaling.low_factor", _is_llama3, _LLAMA3),
    _Only("rope_scaling.high_factor", _is_llama3, _LLAMA3),
    _Only("rope_scaling.original_length", _is_llama3, _LLAMA3),
    _Only("local_rope_theta", _rotates, _ROPE),
    _Only(
        "local_rope_theta",
        lambda model: any(model.layer_windows),
        "a layer with a window (windows)",
    ),
)


def check_used(chosen: ModelConfig, model: ModelConfig, path: str) -> None:
    """Raises if a config sets a key of a model that would do nothing.

    Args:
        chosen: The model as the config has it.
        model: The same with what it takes from a teacher.
        path: Names the model in the message.

    Raises:
        UsageError: It does; the message names the key.
    """
    defaults = ModelConfig()
    for key, serves, condition in _ONLY:
        value = attrgetter(key)(chosen)
        if value != attrgetter(key)(defaults) and not serves(model):
            raise UsageError(
                f"{path}.{key} = {value!r} is for {condition} and would do nothing "
                "here; remove it or set that"
            )


def check_model(model: ModelConfig, config: Config, path: str) -> None:
    """Raises unless the model can be built, sharded over the mesh and fed the rows."""
    check_architecture(model, path)
    for name, heads in (("heads", model.heads), ("kv_heads", model.key_value_heads)):
        if config.mesh.tensor > 0 and heads % config.mesh.tensor:
            raise UsageError(
                f"{path}.{name} = {heads} is not divisible by config.mesh.tensor = "
                f"{config.mesh.tensor}"
            )
    if model.positions == "learned" and config.data.length > model.max_length:
        raise UsageError(
            f"config.data.length = {config.data.length} exceeds the learned positions, "
            f"{path}.max_length = {model.max_length}"
        )


def check_architecture(model: ModelConfig, path: str) -> None:
    """Raises unless the model can be built; `path` names it in the message."""
    for name, (least, most) in _SIZES.items():
        whole(getattr(model, name), least, most, f"{path}.{name}")
    for name, low in (("rope_theta", 1e-6), ("norm_epsilon", 1e-30)):
        between(getattr(model, name), low, _LARGEST, f"{path}.{name}")
    for name in (
        "local_rope_theta",
        "query_scalar",
        "attention_softcap",
        "logit_softcap",
    ):
        if not 0 <= getattr(model, name) <= _LARGEST:
            raise UsageError(
                f"{path}.{name} must be >= 0 and at most {_LARGEST:g}; 0 turns it off"
            )
    _check_windows(model.windows, f"{path}.windows")
    _check_scaling(model.rope_scaling, f"{path}.rope_scaling")
    between(model.rope_fraction, 0.0, 1.0, f"{path}.rope_fraction")
    if not model.head_width and model.width % model.heads:
        raise UsageError(
            f"{path}.width = {model.width} is not divisible by {path}.heads = "
            f"{model.heads}; change one or set head_width"
        )
    kv_heads = model.key_value_heads
    if kv_heads < 1 or model.heads % kv_heads:
        raise UsageError(
            f"{path}.heads = {model.heads} is not divisible by "
            f"{path}.kv_heads = {kv_heads}"
        )
    head_width = model.width_of_head
    if model.positions == "rope" and int(head_width * model.rope_fraction) % 2:
        raise UsageError(
            f"{path}: head width {head_width} * rope_fraction {model.rope_fraction:g} "
            "must be even"
        )
    if model.norm_offset and model.norm != "rmsnorm":
        raise UsageError(f"{path}.norm_offset needs {path}.norm = 'rmsnorm'")
    if model.attention_softcap and model.attention == "cudnn":
        raise UsageError(
            f"{path}.attention_softcap needs {path}.attention = 'auto' or 'xla': "
            "cudnn does not support a softcap"
        )


def _check_windows(windows: tuple[int, ...], path: str) -> None:
    if not windows:
        raise UsageError(f"{path} is empty; use (0,) for a model without windows")
    for window in windows:
        whole(window, 0, MOST_TOKENS, path)


def _check_scaling(scaling: RopeScalingConfig, path: str) -> None:
    for name in ("factor", "low_factor", "high_factor"):
        between(getattr(scaling, name), 1e-6, _LARGEST, f"{path}.{name}")
    whole(scaling.original_length, 1, MOST_TOKENS, f"{path}.original_length")
    if scaling.kind == "llama3" and scaling.low_factor >= scaling.high_factor:
        raise UsageError(
            f"{path}.low_factor = {scaling.low_factor:g} must be less than "
            f"{path}.high_factor = {scaling.high_factor:g}"
        )
