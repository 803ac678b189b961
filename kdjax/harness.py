"""The command line of EleutherAI's lm-evaluation-harness, with kdjax's models.

    python -m kdjax.harness --model_args path=runs/gpt_small --tasks arc_easy
    python -m kdjax.harness --model_args path=model.gguf,batch_size=8 --tasks my_task \
        --include_path tasks/
    python -m kdjax.harness ls tasks

All arguments are those of lm_eval; --model is kdjax unless it is given. It needs
pip install 'kdjax[harness]'.
"""

import importlib
import sys

from kdjax.core.errors import UsageError
from kdjax.core.xla_flags import use_xla_flags

_NAMING = ("--model", "-M", "--config", "-C")  # arguments that name a model
_OTHERS = ("ls", "validate")  # commands that take no model


def main() -> None:
    """Runs the harness."""
    use_xla_flags()
    try:
        importlib.import_module("kdjax.evaluation.harness")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        _fail("lm_eval is not installed; pip install 'kdjax[harness]'")
    from lm_eval.__main__ import cli_evaluate

    is_named = any(arg.split("=")[0] in _NAMING for arg in sys.argv)
    is_help = len(sys.argv) < 2 or sys.argv[1] in (*_OTHERS, "--help", "-h")
    if not is_named and not is_help:
        sys.argv += ["--model", "kdjax"]
    try:
        cli_evaluate()
    except UsageError as error:
        _fail(str(error))


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
