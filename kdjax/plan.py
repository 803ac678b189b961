"""Says what a config takes on devices that need not be here, before anything runs.

    python -m kdjax.plan --config=configs/gpt2_124m.py --topology=v5e:2x4
    python -m kdjax.plan --config=configs/gpt2_124m.py --devices=8xH100 --search

Prints whether the student's step fits, its memory by kind, its estimated time and MFU,
and what the whole experiment takes: days, chip-hours, disk, feeding, and what a cache
of the teacher's targets would save. No accelerator is needed, no data are read, nothing
is downloaded. Where the platform's compiler is installed (pip install -e '.[plan]'),
it compiles the very program of the run, and its memory replaces the estimate.
docs/planning.md tells how far each figure can be trusted.

Any key of the config can be overridden, as in a run: --config.mesh.fsdp=8.
"""

import os
import sys

from absl import flags
from ml_collections import config_flags

from kdjax.config.flags import read_literals
from kdjax.config.mistakes import MISSING, check_single, explain
from kdjax.config.packaged import resolve as packaged
from kdjax.config.validation import validate
from kdjax.core import cli
from kdjax.core.errors import UsageError

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The experiment, as FILE or FILE:ARGUMENT; its keys: docs/config.md.",
    lock_config=True,
)
_TOPOLOGY = flags.DEFINE_string(
    "topology", "", "A TPU's slice, as v5p:4x4x4; several: 2xv5p:4x4x4."
)
_DEVICES = flags.DEFINE_string("devices", "", "GPUs, as 8xH100.")
_COMPILE = flags.DEFINE_enum(
    "compile",
    "auto",
    ["auto", "never", "always"],
    "Whether the program is compiled; auto: where its compiler is installed.",
)
_SEARCH = flags.DEFINE_boolean(
    "search", False, "Try meshes, remat policies and micro-batches; plan the best."
)
read_literals()


def main(argv: list[str]) -> None:
    """Prints the plan that the flags ask for."""
    del argv
    if not _CONFIG.present:
        raise UsageError(MISSING)
    check_single(sys.argv)
    given = [text for text in (_TOPOLOGY.value, _DEVICES.value) if text]
    if len(given) != 1:
        raise UsageError(
            "give either --topology, such as --topology=v5p:4x4x4, or --devices, such "
            "as --devices=8xH100"
        )
    try:
        config = validate(_CONFIG.value)
    except OSError as error:  # ml_collections defers it until the config is read
        reason = explain(error, sys.argv) or f"--config cannot be read: {error}"
        raise UsageError(reason) from None
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing here runs, wherever this is
    # Imported late, so that a mistake is reported before seconds of imports.
    from kdjax.planning import page, planner
    from kdjax.planning.target import parse_target

    target = parse_target(given[0])
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    plan = planner.make_plan(
        config, target, compiles=_COMPILE.value, searches=_SEARCH.value
    )
    if plan.choices:
        print(page.found(plan.choices, plan.tried), end="\n\n")
    print(page.page(plan.choice, plan.compiled, plan.why_not, name))


if __name__ == "__main__":
    sys.argv = [*map(packaged, sys.argv)]
    cli.run(main, explain=explain)
