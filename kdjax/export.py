"""Writes a finished experiment's student in a format that other programs load.

    python -m kdjax.export --workdir=runs/gpt_small --to=student
    python -m kdjax.export --workdir=runs/gpt_small --to=student.gguf --gguf_type=Q8_0

The first writes a directory that transformers loads: the tokenizer and a model card
with the report's table lie beside the weights. The second writes one file for llama.cpp
and everything built on it, with the tokenizer inside.
"""

from absl import flags
from etils import epath

from kdjax.checkpoints.native import NativeModel, is_model
from kdjax.core import cli
from kdjax.core.errors import UsageError
from kdjax.core.inputs import fetched
from kdjax.core.mirrors import address, written
from kdjax.models import save_gguf, save_pretrained
from kdjax.report import model_card
from kdjax.results.files import read


def export(
    workdir: epath.Path, run: str, target: epath.Path, gguf_type: str = ""
) -> None:
    """Writes one model of an experiment as a directory or as a GGUF file.

    Args:
        workdir: The experiment's directory, or that of a run in it.
        run: The name of the model's run in it; empty for the first student's.
        target: A name that ends in .gguf, or the directory to write in the Hugging
            Face format, which must be empty or not exist.
        gguf_type: The format of a GGUF file's matrices; empty: F32.

    Raises:
        UsageError: The experiment is not finished or has no such run, `target` cannot
            be written, or its format has no architecture for the model.
    """
    is_gguf = target.suffix.lower() == ".gguf"
    if gguf_type and not is_gguf:
        raise UsageError(
            f"--gguf_type is for GGUF files; --to={target} must end in .gguf for it"
        )
    workdir, run = _experiment(workdir, run)
    results = read(workdir / "report" / "report.json")
    run = run or f"student-{results.config.seed}"
    directory = workdir / run / "model"
    if not is_model(directory):
        raise UsageError(
            f"there is no model in {directory}; --run must be a run of the experiment, "
            "such as student-0 or twin-0"
        )
    stored = NativeModel(directory)
    model, params = stored.load()
    tokenizer = stored.tokenizer
    if is_gguf:
        save_gguf(target, model, params, tokenizer=tokenizer, dtype=gguf_type or "F32")
    else:
        card = model_card(results, run)
        save_pretrained(target, model, params, tokenizer=tokenizer, card=card)


def _experiment(workdir: epath.Path, run: str) -> tuple[epath.Path, str]:
    """Returns an experiment's directory and a run's name, given either directory.

    Raises:
        UsageError: Two runs are named.
    """
    place = workdir.parent if is_model(workdir) else workdir  # RUN/twin-0/model
    above = place.parent / "report" / "report.json"
    if (workdir / "report" / "report.json").exists() or not above.exists():
        return workdir, run
    if run and run != place.name:
        raise UsageError(
            f"--workdir={workdir} is the run {place.name}, and --run={run} another; "
            "name one of them"
        )
    return place.parent, place.name


def main(argv: list[str]) -> None:
    """Exports the model given by the flags."""
    del argv
    values = flags.FLAGS
    workdir = fetched(values.workdir)
    with written(values.to) as target:
        export(workdir, values.run, target, values.gguf_type)
    print(address(target))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Where the experiment ran.", required=True)
    flags.DEFINE_string(
        "to", None, "The directory or the .gguf file to write.", required=True
    )
    flags.DEFINE_string("run", "", "Which model; default: the first student.")
    flags.DEFINE_string(
        "gguf_type", "", "For a .gguf file: F32 (the default), F16, BF16 or Q8_0."
    )
    cli.run(main)
