"""Renders an experiment's report again, from the results in its report.json.

python -m kdjax.report --workdir=runs/gpt_small
"""

from absl import flags
from etils import epath

from kdjax import report
from kdjax.core import cli
from kdjax.results.files import read


def main(argv: list[str]) -> None:
    """Renders the report of --workdir again."""
    del argv
    directory = epath.Path(flags.FLAGS.workdir).expanduser() / "report"
    results = read(directory / "report.json")
    page = report.write(results, directory)
    verdict = report.summarise(results).verdict
    print(report.table(results), verdict, page, sep="\n\n")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Where the experiment ran.", required=True)
    cli.run(main)
