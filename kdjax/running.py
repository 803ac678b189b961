"""A whole experiment and its report as one function, for notebooks and scripts."""

from typing import TYPE_CHECKING

from etils import epath

from kdjax.config.schema import AnyConfig, Config
from kdjax.config.validation import check, parse, validate
from kdjax.core.xla_flags import use_xla_flags
from kdjax.experiment.owners import owned
from kdjax.experiment.paths import check_paths
from kdjax.experiment.places import opened
from kdjax.experiment.workdir import finished_report

if TYPE_CHECKING:
    from kdjax.results.measured import Results


def run(
    config: AnyConfig,
    workdir: epath.PathLike,
    *,
    overwrite: bool = False,
    shared: epath.PathLike | None = None,
) -> "Results":
    """Runs an experiment, or what is left of it, and writes its report.

    It is what `python -m kdjax.main` does. Where several processes take part, each must
    first call `kdjax.parallel.processes.join_processes`.

    Args:
        config: The config, as `load_config` returns it, with any changes.
        workdir: The experiment's own directory; ~ stands for the user's home.
        overwrite: Whether to delete an experiment found there.
        shared: A directory where experiments, as those of a sweep, have the runs that
            several of them need; None: this one has all its runs in its own.

    Returns:
        What was measured; if the experiment has finished before, what was measured
        then.

    Raises:
        UsageError: The config contradicts itself, the directory is another config's or
            in use by another run, or devices, data, teacher or disk do not fit the
            config.
    """
    settings = parse(config)
    check(settings)
    with opened(workdir) as directory:
        return _run(settings, directory, overwrite, shared)


def _run(
    settings: Config,
    directory: epath.Path,
    overwrite: bool,
    shared: epath.PathLike | None,
) -> "Results":
    """Does what `run` says, in a directory."""
    if not overwrite and finished_report(directory, settings) is not None:
        from kdjax.results.files import read

        return read(directory / "report" / "report.json")
    check_paths(settings)
    validate(settings)
    use_xla_flags()
    # Imported late, so that a mistake is reported before seconds of imports.
    import jax

    from kdjax import report
    from kdjax.experiment import experiment

    is_first = jax.process_index() == 0
    with owned(directory, is_first=is_first, waits=shared is not None):
        results = experiment.run(
            settings, directory, overwrite=overwrite, shared=shared
        )
        if is_first:
            report.write(results, directory / "report")
    return results
