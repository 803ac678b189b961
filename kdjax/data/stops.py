"""The tokens at which a pretrained model has said all it wants to say."""

import json
from typing import Any

from etils import epath

from kdjax.errors import UsageError
from kdjax.gguf_header import read_header

_GGUF_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
# The first one that says anything is believed, as transformers does.
_FILES = ("generation_config.json", "config.json")


def read_stops(path: epath.Path) -> tuple[int, ...]:
    """Returns the ids that end a text, the one that ends a document first.

    Args:
        path: A directory in the Hugging Face format, or a .gguf file.

    Raises:
        UsageError: Nobody says which they are.
    """
    if path.suffix == ".gguf":
        metadata = read_header(path).metadata
        found = [metadata.get(key) for key in _GGUF_KEYS]
        if stops := _ids(found):
            return stops
        raise UsageError(f"{path} names no end of text ({_GGUF_KEYS[0]})")
    for name in _FILES:
        try:
            content = json.loads((path / name).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        value = content.get("eos_token_id") if isinstance(content, dict) else None
        if stops := _ids(value if isinstance(value, list) else [value]):
            return stops
    raise UsageError(
        f"{path / _FILES[1]} names no end of text; add eos_token_id, the token's id"
    )


def _ids(values: list[Any]) -> tuple[int, ...]:
    """Returns those that can be ids, each once."""
    ids = (value for value in values if type(value) is int and value >= 0)
    return tuple(dict.fromkeys(ids))
