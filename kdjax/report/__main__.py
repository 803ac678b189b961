"""Renders the report of an experiment again, or makes a card of many.

    python -m kdjax.report runs/gpt_small
    python -m kdjax.report runs/sweep
    python -m kdjax.report runs/a runs/b --output=runs/card
    python -m kdjax.report runs/gpt_small --follow

The first renders the experiment's own report again, from the results in its
report.json. The next two write a report card, which holds all points of a sweep, or
several experiments, side by side. The last one writes a page of an experiment in
progress, runs/gpt_small/progress.html, which a browser loads again by itself.
"""

import contextlib

from absl import flags
from etils import epath

from kdjax import report
from kdjax.core import cli
from kdjax.core.buckets import is_remote
from kdjax.core.errors import UsageError
from kdjax.core.files import read_json
from kdjax.core.logging import say
from kdjax.core.mirrors import address, written
from kdjax.experiment.places import commit, opened
from kdjax.report.many.points import is_sweep
from kdjax.report.progress import follow
from kdjax.results.files import read

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "An experiment's workdir, as an argument is."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where to write a card; default: card/ in a sweep's directory."
)
_FOLLOW = flags.DEFINE_boolean(
    "follow",
    False,
    "Write a page of an experiment in progress, again and again, until it is finished.",
)


def main(argv: list[str]) -> None:
    """Writes the report or the card of the directories on the command line."""
    given = [*argv[1:], *([_WORKDIR.value] if _WORKDIR.value else [])]
    if not given:
        raise UsageError(
            "name an experiment's workdir or a sweep's directory, such as "
            "runs/gpt_small"
        )
    if _FOLLOW.value and any(map(is_remote, given)):
        raise UsageError(
            "--follow takes a workdir on a disk; for one in a bucket, give this "
            "command without it once the experiment has finished"
        )
    with contextlib.ExitStack() as stack:
        _write([stack.enter_context(opened(path)) for path in given])


def _write(directories: list[epath.Path]) -> None:
    """Writes the report of one directory, or the card of several."""
    if len(directories) > 1 or is_sweep(directories[0]):
        if _FOLLOW.value:
            raise UsageError(
                "--follow takes the workdir of one experiment; make the card of a "
                "sweep again to see how far it is"
            )
        with contextlib.ExitStack() as stack:
            output = _OUTPUT.value
            if output:
                output = stack.enter_context(written(output, may_exist=True))
            page = report.write_card(directories, output)
            verdict = read_json(page.parent / "card.json")["verdict"]
            print(*verdict, address(page), sep="\n\n")
        return
    if _OUTPUT.value:
        raise UsageError(
            "--output is where the card of a sweep or of several workdirs goes; the "
            f"report of one goes to {directories[0]}/report"
        )
    if _FOLLOW.value:
        say(f"{directories[0]}/progress.html is rewritten until the report is there")
        print(follow(directories[0]))
        return
    directory = directories[0] / "report"
    results = read(directory / "report.json")
    page = report.write(results, directory)
    commit(directories[0])
    verdict = "\n\n".join(report.summarise(results).paragraphs)
    print(report.table(results), verdict, address(page), sep="\n\n")


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
