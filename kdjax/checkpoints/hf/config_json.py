"""A checkpoint's `config.json`, read with checks."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from kdjax.config.schema import ModelConfig, RopeScalingConfig
from kdjax.core.errors import UsageError

MOST_LAYERS = 4096  # more than any model has; a damaged file may claim anything
MOST = 2**31 - 1  # of any integer: the largest int32, JAX's default
_LARGEST = 1e38  # of any other number: what JAX's float32 holds
_FULL, _LOCAL = "full_attention", "sliding_attention"

Value = TypeVar("Value", bool, int, float, str)


class Fields:
    """The values of a `config.json`, each checked when it is read."""

    def __init__(self, values: Mapping[str, Any], path: str) -> None:
        self._values, self._path = values, path

    def get(self, names: str, default: Value | None, null: Value | None) -> Any:
        """Returns the value of the first name that is present.

        Args:
            names: Newer and older spellings, separated by spaces.
            default: The value if none is present. None: one is required.
            null: The value if it is null. None: the default.
        """
        for name in names.split():
            if name in self._values:
                value = self._values[name]
                if value is not None:
                    return value
                if null is not None:
                    return null
        if default is None:
            self.refuse(names.split()[0], "must be given")
        return default

    def integer(self, names: str, default: int | None = None, null: Any = None) -> int:
        """Returns an integer from 0 to `MOST`."""
        value = self.get(names, default, null)
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(names, "must be a whole number", value)
        if not 0 <= value <= MOST:
            self.refuse(names, "is out of range", value)
        return value

    def number(
        self, names: str, default: float | None = None, null: Any = None
    ) -> float:
        """Returns a number as a float."""
        value = self.get(names, default, null)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(names, "must be a number", value)
        if not abs(value) <= _LARGEST:
            self.refuse(names, "is out of range", value)
        return float(value)

    def boolean(
        self, names: str, default: bool | None = None, null: Any = None
    ) -> bool:
        """Returns true or false."""
        value = self.get(names, default, null)
        if not isinstance(value, bool):
            self.refuse(names, "must be true or false", value)
        return value

    def choice(
        self, names: str, choices: Mapping[str, str], default: str | None = None
    ) -> str:
        """Returns the meaning of one of the known words."""
        value = self.get(names, default, None)
        if not isinstance(value, str) or value not in choices:
            self.refuse(names, f"must be one of {', '.join(choices)}", value)
        return choices[value]

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Returns a JSON object; empty if it is absent or null."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, Mapping):
            self.refuse(name, "must be an object", value)
        return value or {}

    def words(self, name: str, count: int) -> Sequence[str] | None:
        """Returns a list of `count` strings, or None if it is absent or null."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count:
            self.refuse(name, f"must be a list of {count} names", value)
        return [str(item) for item in value]

    def require(self, values: Mapping[str, Any]) -> None:
        """Raises unless each key is absent, null or has a supported value.

        Args:
            values: For each key, the only supported value, or a tuple of them.
        """
        for name, wanted in values.items():
            known = wanted if isinstance(wanted, tuple) else (wanted,)
            if self._values.get(name) not in (None, *known):
                words = " or ".join(str(value).lower() for value in known)
                self.refuse(name, f"must be {words} for kdjax", self._values[name])

    def refuse(self, names: str, rule: str, value: Any = None) -> NoReturn:
        """Raises, naming the key, the rule and what was found."""
        found = "" if value is None else f"; it is {reprlib.repr(value)}"
        raise UsageError(f"{self._path}: {names.split()[0]} {rule}{found}")

    def nested(self, values: Mapping[str, Any], name: str) -> "Fields":
        """Wraps a nested object, for error messages that name it."""
        return Fields(values, f"{self._path}: {name}")


def read_windows(hf: Fields, layers: int, default: Sequence[bool]) -> tuple[int, ...]:
    """Returns the windows of the layers, as the shortest repeating pattern.

    Args:
        hf: The file.
        layers: The number of layers.
        default: Which layers have a window if the file does not list them.
    """
    window = hf.integer("sliding_window", 4096, null=0)
    types = hf.words("layer_types", layers)
    if types is not None:
        if unknown := set(types) - {_FULL, _LOCAL}:
            hf.refuse("layer_types", f"may hold {_FULL} and {_LOCAL}", unknown.pop())
        default = [name == _LOCAL for name in types]
    windows = tuple(window if is_local else 0 for is_local in default)
    for period in range(1, len(windows)):
        if all(w == windows[layer % period] for layer, w in enumerate(windows)):
            return windows[:period]
    return windows


def write_windows(config: ModelConfig) -> dict[str, Any]:
    """Returns the keys for the layers' windows, including Qwen's own."""
    windows = config.layer_windows
    first = next((i for i, window in enumerate(windows) if window), len(windows))
    return {
        "sliding_window": max(windows) or None,
        "layer_types": [_LOCAL if window else _FULL for window in windows],
        "use_sliding_window": any(windows),
        "max_window_layers": first,
    }


def read_rope(
    hf: Fields, theta: float, fraction: float, local: float
) -> dict[str, Any]:
    """Returns the RoPE fields, from newer and older spellings.

    Args:
        hf: The file.
        theta: The family's default theta.
        fraction: The family's default fraction of each head's width that is rotated.
        local: The family's default theta of windowed layers; 0: the others' theta.
    """
    new = hf.mapping("rope_parameters")
    full = hf.nested(new, "rope_parameters").mapping(_FULL) or new
    rope = hf.nested({**hf.mapping("rope_scaling"), **full}, "rope_parameters")
    fields: dict[str, Any] = {
        "rope_theta": rope.number(
            "rope_theta", hf.number("rope_theta rotary_emb_base", theta)
        ),
        "rope_fraction": rope.number(
            "partial_rotary_factor",
            hf.number("partial_rotary_factor rotary_pct", fraction),
        ),
        "rope_scaling": _read_scaling(rope, hf),
    }
    if local:
        near = hf.nested(new, "rope_parameters").mapping(_LOCAL)
        near_rope = hf.nested(near, f"rope_parameters.{_LOCAL}")
        near_rope.require({"rope_type": "default"})
        older = hf.number("rope_local_base_freq", local)
        fields["local_rope_theta"] = near_rope.number("rope_theta", older)
    return fields


def _read_scaling(rope: Fields, hf: Fields) -> RopeScalingConfig:
    kinds = {"default": "none", "linear": "linear", "llama3": "llama3"}
    kind = rope.choice("rope_type type", kinds, "default")
    if kind == "none":
        return RopeScalingConfig()
    if kind == "linear":
        return RopeScalingConfig("linear", rope.number("factor"))
    return RopeScalingConfig(
        "llama3",
        rope.number("factor"),
        rope.number("low_freq_factor"),
        rope.number("high_freq_factor"),
        rope.integer(
            "original_max_position_embeddings",
            hf.integer("max_position_embeddings", 8192),
        ),
    )


def write_rope(config: ModelConfig, local: bool) -> dict[str, Any]:
    """Returns the RoPE keys, in both the newer and the older spelling."""
    scaling = config.rope_scaling
    scale: dict[str, Any] = {}
    if scaling.kind != "none":
        scale = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        scale |= {
            "low_freq_factor": scaling.low_factor,
            "high_freq_factor": scaling.high_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    rope = {"rope_type": "default", "rope_theta": config.rope_theta, **scale}
    keys = {"rope_theta": config.rope_theta, "rope_scaling": scale or None}
    if config.rope_fraction != 1:
        rope["partial_rotary_factor"] = config.rope_fraction
        keys["partial_rotary_factor"] = config.rope_fraction
    if not local:
        return {**keys, "rope_parameters": rope}
    theta = config.local_rope_theta or config.rope_theta
    near = {"rope_type": "default", "rope_theta": theta}
    return {
        **keys,
        "rope_local_base_freq": theta,
        "rope_parameters": {_FULL: rope, _LOCAL: near},
    }
