"""Small files: JSON that is checked when read, and writes that are whole or absent."""

import json
import uuid
from typing import Any

from etils import epath

from kdjax.core.errors import UsageError


def read_json(path: epath.Path, remedy: str = "") -> dict[str, Any]:
    """Returns the object in a JSON file.

    Args:
        path: The file.
        remedy: What to do if it is damaged, for the message.

    Raises:
        UsageError: The file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    # A deeply nested file exhausts the parser's stack.
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        said = f"{path} cannot be read ({reason})"
        raise UsageError("; ".join(filter(None, (said, remedy)))) from None
    if not isinstance(content, dict):
        said = f"{path} must hold a JSON object"
        raise UsageError("; ".join(filter(None, (said, remedy))))
    return content


def write_json(path: epath.Path, content: Any) -> None:
    """Writes JSON atomically, as `write_bytes` does."""
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Writes a file atomically: readers see the old one or the new one, never half."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
