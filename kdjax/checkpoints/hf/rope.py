"""RoPE in a `config.json`: read as transformers 5 reads it, and written for 4 too.

transformers 5 has one object, `rope_parameters`; in 4, theta and the fraction were keys
of their own and `rope_scaling` held the rest. Where a file has both, that object counts
unless there is a `rope_scaling`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdjax.checkpoints.hf.config_json import Fields
from kdjax.config.architecture import ModelConfig, RopeScalingConfig

FULL, LOCAL = "full_attention", "sliding_attention"
_NEW, _OLD = "rope_parameters", "rope_scaling"


class Rope(NamedTuple):
    """How the models of a family rotate queries and keys.

    Attributes:
        theta: The default theta.
        local: The default theta of layers with a window. 0: they rotate as others do.
        fraction: The default fraction of each head's width that is rotated. None: all
            of it, whatever the file says.
        older: The older keys of theta and of the fraction.
    """

    theta: float = 10_000.0
    local: float = 0.0
    fraction: float | None = None
    older: tuple[str, str] = ("rope_theta", "partial_rotary_factor")


def read_rope(hf: Fields, family: Rope, length: int) -> dict[str, Any]:
    """Returns the RoPE fields of `ModelConfig`.

    Args:
        hf: The file.
        family: The family's defaults.
        length: The longest text that the file declares.
    """
    new, old = hf.mapping(_NEW), hf.mapping(_OLD)
    inside, values, name = hf.nested(new, _NEW), old or new, _OLD if old else _NEW
    if family.local:
        if flat := sorted(new.keys() - {FULL, LOCAL}):
            inside.refuse(flat[0], f"has no effect there; move it to {FULL}")
        values, name = {**inside.mapping(FULL), **old}, f"{_NEW}.{FULL}"
    elif nested := sorted(new.keys() & {FULL, LOCAL}):
        inside.refuse(nested[0], "has no place: all layers of the family rotate alike")
    rope = hf.nested(values, name)
    theta, fraction = family.older
    fields: dict[str, Any] = {
        "rope_theta": rope.number("rope_theta", hf.number(theta, family.theta)),
        "rope_scaling": _read_scaling(rope, hf, length),
    }
    share = rope.number(
        "partial_rotary_factor", hf.number(fraction, family.fraction or 1.0)
    )
    if family.fraction is None and share != 1:
        # transformers 5 ignores it or fails, 4 fails: nobody knows what is meant.
        rope.refuse("partial_rotary_factor", "must be 1 in this family", share)
    fields["rope_fraction"] = share
    if family.local:
        near = hf.nested(inside.mapping(LOCAL), f"{_NEW}.{LOCAL}")
        near.require({"rope_type": "default", "partial_rotary_factor": 1})
        older = hf.number("rope_local_base_freq", family.local)
        fields["local_rope_theta"] = near.number("rope_theta", older)
    return fields


def _read_scaling(rope: Fields, hf: Fields, length: int) -> RopeScalingConfig:
    kinds = {"default": "none", "linear": "linear", "llama3": "llama3"}
    kind = rope.choice("rope_type type", kinds, "default")
    if kind == "none":
        return RopeScalingConfig()
    if kind == "linear":
        return RopeScalingConfig("linear", rope.number("factor"))
    original = "original_max_position_embeddings"
    return RopeScalingConfig(
        "llama3",
        rope.number("factor"),
        rope.number("low_freq_factor"),
        rope.number("high_freq_factor"),
        # At the top level it counts more, as in the files of Phi-3.
        hf.integer(original, rope.integer(original, length)),
    )


def write_rope(config: ModelConfig, family: Rope) -> dict[str, Any]:
    """Returns the RoPE keys, in both the newer and the older spelling.

    What the family has no key for is left out.
    """
    scale = _write_scaling(config.rope_scaling)
    rope = {"rope_type": "default", "rope_theta": config.rope_theta, **scale}
    theta, fraction = family.older
    keys: dict[str, Any] = {theta: config.rope_theta, _OLD: scale or None}
    if family.fraction is not None:
        rope["partial_rotary_factor"] = keys[fraction] = config.rope_fraction
        if scale:  # transformers looks into no other object, if there is this one
            keys[_OLD] = rope
    if not family.local:
        return {**keys, _NEW: rope}
    local = config.local_rope_theta or config.rope_theta
    near = {"rope_type": "default", "rope_theta": local}
    return {**keys, "rope_local_base_freq": local, _NEW: {FULL: rope, LOCAL: near}}


def _write_scaling(scaling: RopeScalingConfig) -> Mapping[str, Any]:
    if scaling.kind == "none":
        return {}
    scale = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "linear":
        return scale
    return scale | {
        "low_freq_factor": scaling.low_factor,
        "high_freq_factor": scaling.high_factor,
        "original_max_position_embeddings": scaling.original_length,
    }
