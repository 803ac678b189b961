"""Renders the report of an experiment again, or makes a card of many.

    python -m kdjax.report runs/gpt_small
    python -m kdjax.report runs/sweep
    python -m kdjax.report runs/a runs/b --output=runs/card

The first renders the experiment's own report again, from the results in its
report.json. The others write a report card, which holds all points of a sweep, or
several experiments, side by side.
"""

from absl import flags
from etils import epath

from kdjax import report
from kdjax.core import cli
from kdjax.core.errors import UsageError
from kdjax.core.files import read_json
from kdjax.report.many.points import is_sweep
from kdjax.results.files import read

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "An experiment's workdir, as an argument is."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where to write a card; default: card/ in a sweep's directory."
)


def main(argv: list[str]) -> None:
    """Writes the report or the card of the directories on the command line."""
    given = [*argv[1:], *([_WORKDIR.value] if _WORKDIR.value else [])]
    if not given:
        raise UsageError(
            "name an experiment's workdir or a sweep's directory, such as "
            "runs/gpt_small"
        )
    directories = [epath.Path(path).expanduser() for path in given]
    if len(directories) > 1 or is_sweep(directories[0]):
        page = report.write_card(directories, _OUTPUT.value)
        verdict = read_json(page.parent / "card.json")["verdict"]
        print(*verdict, page, sep="\n\n")
        return
    if _OUTPUT.value:
        raise UsageError(
            "--output is where the card of a sweep or of several workdirs goes; the "
            f"report of one goes to {directories[0]}/report"
        )
    directory = directories[0] / "report"
    results = read(directory / "report.json")
    page = report.write(results, directory)
    verdict = report.summarise(results).verdict
    print(report.table(results), verdict, page, sep="\n\n")


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
