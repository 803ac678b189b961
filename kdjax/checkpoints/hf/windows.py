"""Sliding windows in a `config.json`, read as transformers reads them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kdjax.checkpoints.hf.config_json import Fields
from kdjax.checkpoints.hf.rope import FULL, LOCAL
from kdjax.config.architecture import ModelConfig

_WINDOW = 4096  # the default of every family


class Windows(NamedTuple):
    """How the models of a family place their windows.

    Attributes:
        pattern: Returns which layers have a window if the file does not list them.
        is_listed: Whether transformers reads the list, `layer_types`.
        has_switch: Whether there is a window only with `use_sliding_window`.
        is_required: Whether transformers needs a window even where no layer uses it.
    """

    pattern: Callable[[Fields, int], Sequence[bool]]
    is_listed: bool = True
    has_switch: bool = False
    is_required: bool = False


def every(period: int, key: str = "") -> Callable[[Fields, int], Sequence[bool]]:
    """Returns the pattern in which every `period`-th layer has full attention.

    Args:
        period: The default.
        key: The key of another period; "": there is none.
    """

    def pattern(hf: Fields, layers: int) -> list[bool]:
        step = hf.integer(key, period) if key else period
        if step < 1:
            hf.refuse(key, "must be more than 0", step)
        return [bool((layer + 1) % step) for layer in range(layers)]

    return pattern


def late(hf: Fields, layers: int) -> list[bool]:
    """Returns Qwen's pattern: windows, if used at all, from some layer on."""
    is_used = hf.boolean("use_sliding_window", False)
    first = hf.integer("max_window_layers", 28)
    return [is_used and layer >= first for layer in range(layers)]


def whole(hf: Fields, layers: int) -> list[bool]:
    """Returns Mistral's pattern: all layers have a window if there is one."""
    return [hf.integer("sliding_window", _WINDOW, null=0) > 0] * layers


def read_windows(hf: Fields, layers: int, family: Windows | None) -> tuple[int, ...]:
    """Returns the windows of the layers, as the shortest repeating pattern.

    Args:
        hf: The file.
        layers: The number of layers.
        family: The family's rules; None: it has no windows.
    """
    types = hf.words("layer_types", layers)
    if unknown := set(types or ()) - {FULL, LOCAL}:
        hf.refuse("layer_types", f"may hold {FULL} and {LOCAL}", unknown.pop())
    if family is None:
        # No layer looks at it, but the cache of transformers does, when it generates.
        hf.require({"sliding_window": None})
        if types is not None and LOCAL in types:
            hf.refuse("layer_types", "may hold only full_attention in this family")
        return (0,)
    window = hf.integer("sliding_window", _WINDOW, null=0)
    if hf.gives("sliding_window") and not window:
        hf.refuse("sliding_window", "must be null or more than 0", window)
    pattern = family.pattern(hf, layers)
    if types is not None:
        pattern = [name == LOCAL for name in types]
    is_off = family.has_switch and not hf.boolean("use_sliding_window", False)
    if is_off and any(pattern):
        hf.refuse("use_sliding_window", "must be true: layer_types has windows")
    if not window and (family.is_required or any(pattern)):
        hf.refuse("sliding_window", "must be a number in this family")
    windows = tuple(window if is_local else 0 for is_local in pattern)
    for period in range(1, len(windows)):
        if all(w == windows[layer % period] for layer, w in enumerate(windows)):
            return windows[:period]
    return windows


def write_windows(config: ModelConfig, family: Windows | None) -> dict[str, Any]:
    """Returns the keys for the layers' windows, as far as the family has any."""
    if family is None:
        return {}
    windows = config.layer_windows
    largest = max(windows) or (_WINDOW if family.is_required else None)
    keys: dict[str, Any] = {"sliding_window": largest}
    if family.is_listed:
        keys["layer_types"] = [LOCAL if window else FULL for window in windows]
    if family.has_switch:
        first = next((i for i, window in enumerate(windows) if window), len(windows))
        keys |= {"use_sliding_window": any(windows), "max_window_layers": first}
    return keys
