"""Distils a student from a teacher, as a config file says.

    python -m kdjax.main --config=configs/gpt_small.py
    python -m kdjax.main --config=kdjax:gpt_small

Prepares the data, trains or loads the teacher, trains the student and its hard-label
twin, and writes a report. Run the same command again to resume a stopped run. The
second line finds the same config wherever kdjax is installed.

Exit codes: 0 done, 1 failed, 2 a mistake that the message says how to mend, 42 stopped
by SIGTERM, 130 stopped by Ctrl-C. A run that is stopped saves its state first.

Any key of the config can be overridden: --config.distill.temperature=2. All keys are
explained in docs/config.md and, where kdjax is installed, in kdjax/config/schema.py.
"""

import dataclasses
import os
import pathlib
import sys

from absl import flags
from etils import epath
from ml_collections import config_flags

from kdjax.config.flags import read_literals
from kdjax.config.mistakes import MISSING, check_single, explain
from kdjax.config.packaged import resolve
from kdjax.config.schema import Config
from kdjax.config.validation import check, parse, validate
from kdjax.core import cli, leaving
from kdjax.core.errors import UsageError
from kdjax.core.mirrors import address
from kdjax.core.xla_flags import use_xla_flags
from kdjax.experiment import workdir
from kdjax.experiment.owners import owned
from kdjax.experiment.paths import check_paths
from kdjax.experiment.places import opened

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The experiment, as FILE or FILE:ARGUMENT; its keys: docs/config.md.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Where everything is written; default: runs/ and the config's name."
)
_OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "Delete the experiment found in the workdir and start over."
)
_SHARED = flags.DEFINE_string(
    "shared", "", "Where runs are that other experiments, as of a sweep, need as well."
)
_PROFILE = flags.DEFINE_string(
    "profile", "", "Steps of each run to trace, as 10:15; the same as --config.profile."
)
read_literals()


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    del argv
    if not _CONFIG.present:
        raise UsageError(MISSING)
    check_single(sys.argv)
    try:
        settings = parse(_CONFIG.value)
        if _PROFILE.value:
            settings = dataclasses.replace(settings, profile=_PROFILE.value)
        check(settings)
    except OSError as error:  # ml_collections defers it until the config is read
        reason = explain(error, sys.argv) or f"--config cannot be read: {error}"
        raise UsageError(reason) from None
    with opened(_WORKDIR.value or _default_workdir()) as directory:
        _run(settings, directory)


def _run(settings: Config, directory: epath.Path) -> None:
    """Does what `main` says, in a directory."""
    done = workdir.finished_report(directory, settings)
    if done is not None and not _OVERWRITE.value:
        if leaving.is_first(os.environ):
            print(f"finished before; the report: {address(done)}")
        return
    check_paths(settings)
    validate(settings)
    use_xla_flags()
    # Imported late, so that a mistake is reported before seconds of imports.
    from kdjax.parallel.processes import join_processes
    from kdjax.parallel.sharding import barrier

    is_first = join_processes() == 0
    from kdjax import report
    from kdjax.experiment.experiment import run

    shared = _SHARED.value or None
    with owned(directory, is_first=is_first, waits=bool(shared)):
        results = run(settings, directory, overwrite=_OVERWRITE.value, shared=shared)
        if is_first:
            page = report.write(results, directory / "report")
            verdict = "\n\n".join(report.summarise(results).paragraphs)
            print(
                report.table(results), verdict, f"report: {address(page)}", sep="\n\n"
            )
    barrier("reported")  # at their end the others would not wait for long


def _default_workdir() -> pathlib.Path:
    """Returns runs/NAME for configs/NAME.py, runs/NAME-ARG for configs/NAME.py:ARG."""
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    path, _, argument = name.partition(":")
    stem = pathlib.Path(path).stem
    return pathlib.Path("runs", f"{stem}-{argument}" if argument else stem)


if __name__ == "__main__":
    sys.argv = [*map(resolve, sys.argv)]
    stopped = "stopped; run the same command again to resume"
    cli.run(main, explain=explain, stopped=stopped)
