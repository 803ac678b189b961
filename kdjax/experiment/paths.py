"""Whether what a config names exists, told before anything slow is imported."""

import importlib.util

from kdjax.checkpoints.hub import is_name
from kdjax.checkpoints.places import check_place
from kdjax.config.schema import Config
from kdjax.core.errors import UsageError
from kdjax.core.inputs import exists
from kdjax.data.matching import check_pattern


def check_paths(config: Config) -> None:
    """Raises unless there is something at every path that a config names.

    What lies there is checked where it is read. Names on a hub are not sought.

    Raises:
        UsageError: A model, a tokenizer or a task does not exist, no file matches, or
            the package is missing that `config.wandb` needs.
    """
    for key, path in named_models(config).items():
        check_place(path, named=key)
    tokenizer = config.tokenizer
    if tokenizer.kind == "file" and not is_name(tokenizer.path):
        directory, _, name = tokenizer.path.rpartition("/")
        # Older tokenizers have other files in the directory.
        is_older = name == "tokenizer.json" and exists(directory or ".")
        if not is_older and not exists(tokenizer.path):
            raise UsageError(f"config.tokenizer.path={tokenizer.path} does not exist")
    for task in config.evaluate.tasks:
        if not exists(task):
            raise UsageError(f"config.evaluate.tasks: {task} does not exist")
    if config.data.source == "files":
        check_pattern(config.data.pattern)
    if config.wandb and importlib.util.find_spec("wandb") is None:
        raise UsageError(
            f"config.wandb = {config.wandb!r} needs a package: pip install wandb"
        )


def named_models(config: Config) -> dict[str, str]:
    """Returns the paths of the models that a config names, by their keys."""
    paths = {
        f"{config.teacher_path(name)}.path": teacher.path
        for name, teacher in config.all_teachers.items()
    }
    paths["config.student.path"] = config.student.path
    return {key: path for key, path in paths.items() if path}
