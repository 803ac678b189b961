"""Writes a finished experiment's student as a directory that transformers loads.

    python -m kdjax.export --workdir=runs/gpt_small --to=student

The tokenizer and a model card with the report's table are written beside the weights.
"""

from absl import flags
from etils import epath

from kdjax.checkpoints.native import NativeModel, is_model
from kdjax.core import cli
from kdjax.core.errors import UsageError
from kdjax.models import save_pretrained
from kdjax.report import model_card
from kdjax.results.files import read


def export(workdir: epath.Path, run: str, target: epath.Path) -> None:
    """Writes one model of an experiment in the Hugging Face format.

    Args:
        workdir: The experiment's directory.
        run: The name of the model's run in it; empty for the first student's.
        target: The directory to write; it must be empty or not exist.

    Raises:
        UsageError: The experiment is not finished or has no such run, `target` is not
            empty, or transformers has no architecture for the model.
    """
    results = read(workdir / "report" / "report.json")
    run = run or f"student-{results.config.seed}"
    directory = workdir / run / "model"
    if not is_model(directory):
        raise UsageError(
            f"there is no model in {directory}; --run must be a run of the experiment, "
            "such as student-0 or twin-0"
        )
    stored = NativeModel(directory)
    tokenizer, card = stored.tokenizer, model_card(results, run)
    save_pretrained(target, *stored.load(), tokenizer=tokenizer, card=card)


def main(argv: list[str]) -> None:
    """Exports the model given by the flags."""
    del argv
    values = flags.FLAGS
    target = epath.Path(values.to).expanduser()
    export(epath.Path(values.workdir).expanduser(), values.run, target)
    print(target)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Where the experiment ran.", required=True)
    flags.DEFINE_string("to", None, "The directory to write to.", required=True)
    flags.DEFINE_string("run", "", "Which model; default: the first student.")
    cli.run(main)
