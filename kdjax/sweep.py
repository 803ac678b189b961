r"""Runs many experiments that differ in some keys of one config: a sweep.

    python -m kdjax.sweep --config=configs/gpt_small.py \
        --set 'distill.temperature=[1, 2, 4, 8]' --set 'distill.alpha=[0.5, 1.0]'

Every point is an ordinary experiment in WORKDIR/points; teachers, twins and rows that
points have in common are made once. Run the same command again to resume a stopped
sweep; the same command on another machine that shares the directory joins in.
--dry_run shows the points and what they cost, --commands prints their commands in place
of running them. docs/sweeps.md explains all of it.
"""

import pathlib
import re
import sys

from absl import flags
from etils import epath
from ml_collections import config_flags

from kdjax.config.flags import read_literals
from kdjax.config.mistakes import MISSING, check_single, explain
from kdjax.config.packaged import resolve
from kdjax.config.validation import parse
from kdjax.core import cli
from kdjax.core.buckets import is_remote
from kdjax.core.errors import UsageError
from kdjax.sweeps import base_flags, bindings, commands, plan, points, yielded

_GIVEN = tuple(sys.argv)  # before example configs' names are replaced by their paths
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "What the points change, as FILE or FILE:ARGUMENT.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "The sweep's directory; default: runs/, the config's name, -sweep."
)
_SET = flags.DEFINE_multi_string(
    "set", [], "KEY=[VALUE, VALUE]: all combinations; may be repeated."
)
_ZIP = flags.DEFINE_multi_string(
    "zip", [], "KEY=[VALUE, VALUE]: paired with the other --zip, one value with one."
)
_BINDINGS = flags.DEFINE_multi_string(
    "bindings", [], "A file with a KEY = VALUES on each line."
)
_SAMPLES = flags.DEFINE_integer(
    "samples", 0, "How often keys bound to log_uniform(LOW, HIGH) and such are drawn."
)
_SEED = flags.DEFINE_integer("seed", 0, "The seed of --samples.")
_HALVING = flags.DEFINE_integer(
    "halving", 0, "Successive halving: keep one in so many points, train those longer."
)
_WORKERS = flags.DEFINE_integer("workers", 1, "How many points run at a time.")
_DRY_RUN = flags.DEFINE_boolean(
    "dry_run", False, "List the points and what they cost, and stop."
)
_FLOPS = flags.DEFINE_float(
    "flops_per_second", 0.0, "For the times of --dry_run until a point has finished."
)
_COMMANDS = flags.DEFINE_enum(
    "commands",
    None,
    commands.KINDS,
    "Print the points' commands in this form, and stop.",
)
_IMAGE = flags.DEFINE_string(
    "image", "", "--commands=kubernetes: the image that has kdjax installed."
)
_VOLUME = flags.DEFINE_string(
    "volume", "kdjax-sweep", "--commands=kubernetes: a PersistentVolumeClaim's name."
)
read_literals()


def main(argv: list[str]) -> None:
    """Runs the sweep that the flags describe."""
    del argv
    if not _CONFIG.present:
        raise UsageError(MISSING)
    check_single(sys.argv)
    sweep = _sweep()
    if sweep.halving:
        from kdjax.sweeps import halving

        halving.check(sweep)
    if _DRY_RUN.value:
        from kdjax.sweeps.costs import dry_run

        print(dry_run(sweep, _FLOPS.value))
    elif _COMMANDS.value:
        print(_printed(sweep))
    else:
        _run(sweep)


def _sweep() -> plan.Sweep:
    """Returns the sweep that the flags describe, checked."""
    for flag, least in ((_WORKERS, 1), (_SAMPLES, 0), (_HALVING, 0), (_FLOPS, 0)):
        if not flag.value >= least:
            raise UsageError(
                f"--{flag.name} must be at least {least}; it is {flag.value}"
            )
    try:
        base = parse(_CONFIG.value)  # the points are checked as a whole
    except OSError as error:  # ml_collections defers it until the config is read
        reason = explain(error, sys.argv) or f"--config cannot be read: {error}"
        raise UsageError(reason) from None
    found = bindings.from_flags(_SET.value, _ZIP.value, _BINDINGS.value)
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    every = points.make_points(
        base,
        found,
        given=yielded.load(file, sys.argv),
        samples=_SAMPLES.value,
        seed=_SEED.value,
    )
    given = base_flags.read(_GIVEN[1:])
    base_flags.check(given, every)
    name = given[0].partition("=")[2]
    if is_remote(_WORKDIR.value):
        raise UsageError(
            f"--workdir={_WORKDIR.value}: a sweep needs a directory on a disk; its "
            "config.cache_dir and data may be in a bucket"
        )
    directory = epath.Path(_WORKDIR.value or _default(file)).expanduser()
    return plan.Sweep(directory, name, given, base, tuple(every), _HALVING.value)


def _default(file: str) -> pathlib.Path:
    """Returns runs/NAME-sweep for configs/NAME.py."""
    path, _, argument = file.partition(":")
    parts = filter(None, (pathlib.Path(path).stem, argument, "sweep"))
    return pathlib.Path("runs", "-".join(parts))


def _printed(sweep: plan.Sweep) -> str:
    """Returns the commands of all points in the form that --commands names."""
    if sweep.halving:
        raise UsageError("--halving decides as it goes, so it has no fixed commands")
    name = re.sub(r"[^a-z0-9-]+", "-", sweep.directory.name.lower()).strip("-")
    all_commands = [sweep.command(point) for point in sweep.points]
    if _COMMANDS.value == "kubernetes":
        return _manifest(sweep, name or "kdjax-sweep")
    plan.claim(sweep)
    if _COMMANDS.value == "slurm":
        return commands.slurm(all_commands, name=name, at_once=_WORKERS.value)
    return "\n".join(map(commands.line, all_commands))


def _manifest(sweep: plan.Sweep, name: str) -> str:
    """Returns the Kubernetes job; nothing is written, for the volume is not here."""
    directory = str(sweep.directory)
    if not _IMAGE.value:
        raise UsageError("--commands=kubernetes needs --image=IMAGE")
    if not directory.startswith("/"):
        raise UsageError(
            "--commands=kubernetes needs --workdir=/PATH, where pods mount the volume"
        )
    if not f"{sweep.base.cache_dir}/".startswith(f"{directory}/"):
        raise UsageError(
            "pods share only the volume, so rows and teachers must be on it: "
            f"--config.cache_dir={directory}/cache"
        )
    return commands.kubernetes(
        [sweep.command(point) for point in sweep.points],
        name=name,
        at_once=_WORKERS.value,
        image=_IMAGE.value,
        directory=directory,
        volume=_VOLUME.value,
    )


def _run(sweep: plan.Sweep) -> None:
    """Runs all points and writes their card; exits with 1 if some of them failed."""
    import jax

    from kdjax import report
    from kdjax.core.files import read_json
    from kdjax.sweeps.existence import check_points
    from kdjax.sweeps.halving import halve
    from kdjax.sweeps.scores import summary
    from kdjax.sweeps.words import counted
    from kdjax.sweeps.worker import Worker, full_tasks

    # The devices are for the points: a metric that is tried must not take them.
    jax.config.update("jax_platforms", "cpu")
    check_points(sweep)
    plan.claim(sweep)
    worker = Worker(sweep, _WORKERS.value)
    failed = halve(sweep, worker) if sweep.halving else worker.work(full_tasks(sweep))
    page = report.write_card([sweep.directory])
    verdict = read_json(page.parent / "card.json")["verdict"]
    print(summary(sweep), *verdict, f"report card: {page}", sep="\n\n")
    if failed:
        name, reason = next(iter(failed.items()))
        total = counted(len(sweep.points), "point")
        print(
            f"error: {len(failed)} of {total} failed, such as {name}: {reason}; run "
            "the same command again to retry",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    sys.argv = [*map(resolve, sys.argv)]
    stopped = "stopped; run the same command again to resume"
    cli.run(main, explain=explain, stopped=stopped)
