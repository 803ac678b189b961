"""Whether there can be a model at a path, told before anything slow is imported."""

from etils import epath

from kdjax.checkpoints.hub import is_name
from kdjax.core.buckets import is_remote
from kdjax.core.errors import UsageError
from kdjax.core.inputs import exists


def check_place(path: epath.PathLike, *, named: str) -> None:
    """Raises unless something exists at a model's path, or it is a name on the hub.

    Args:
        path: Any path that `open_model` accepts.
        named: The flag or key that gave the path, for error messages.

    Raises:
        UsageError: There is nothing.
    """
    if not str(path):
        raise UsageError(f"{named} is empty; give the path of a model")
    if str(path).startswith(("http://", "https://")):
        raise UsageError(
            f"{named}={path} is a web address; give a path, or a model's name on the "
            "Hugging Face hub as ORG/NAME"
        )
    if not is_name(str(path)) and not exists(path):
        place = path if is_remote(path) else epath.Path(path).expanduser()
        raise UsageError(f"{named}={place} does not exist")
