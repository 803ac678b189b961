"""All commands under one name.

    kdjax run --config=kdjax:gpt_small    what python -m kdjax.main does
    kdjax plan --config=kdjax:gpt2_124m --topology=v5e:2x4
    kdjax sweep --config=kdjax:gpt_small --set 'distill.alpha=[0.5, 1.0]'
    kdjax generate --checkpoint=runs/gpt_small --prompt='def main('
    kdjax export --workdir=runs/gpt_small --to=student
    kdjax evaluate --checkpoint=runs/gpt_small --data=questions.jsonl
    kdjax harness --model_args path=runs/gpt_small --tasks arc_easy
    kdjax report runs/gpt_small           or several, or a sweep

Every key of a config is explained in docs/config.md and kdjax/config/schema.py, and is
overridden by a flag, such as --config.distill.temperature=2.

kdjax COMMAND --help lists a command's flags; `python -m kdjax` is the same as `kdjax`.
"""

import difflib
import runpy
import sys

import kdjax

COMMANDS = {
    "run": "kdjax.main",
    "plan": "kdjax.plan",
    "sweep": "kdjax.sweep",
    "generate": "kdjax.generate",
    "export": "kdjax.export",
    "evaluate": "kdjax.evaluate",
    "harness": "kdjax.harness",
    "report": "kdjax.report",
}


def main() -> None:
    """Runs the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(__doc__)
    elif name == "--version":
        print(kdjax.__version__)
    elif name in COMMANDS:
        sys.argv = [f"kdjax {name}", *sys.argv[2:]]
        runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"try {', '.join(COMMANDS)}"
        print(f"error: kdjax has no command {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
