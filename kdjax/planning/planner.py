"""Plans a config for a target: resolves, searches, and compiles where it can."""

from typing import NamedTuple

from kdjax.config.schema import Config
from kdjax.core.errors import UsageError
from kdjax.core.logging import say
from kdjax.planning.compiled import OUT_OF_MEMORY, Compiled, ask, is_installed
from kdjax.planning.resolve import Subject, resolve, to_json, unplaced
from kdjax.planning.search import Choice, choice_of, search
from kdjax.planning.target import Target

_INSTALL = "pip install -e '.[plan]'"


class Plan(NamedTuple):
    """What `kdjax.plan` prints.

    Attributes:
        choice: What is planned, with its estimates.
        compiled: What the compiler says of it; None: it was not asked, or failed.
        why_not: Why not, in that case.
        choices: All that fit, the best first; empty: none were searched for.
        tried: How many were tried.
    """

    choice: Choice
    compiled: Compiled | None
    why_not: str
    choices: tuple[Choice, ...] = ()
    tried: int = 0


def make_plan(
    config: Config, target: Target, *, compiles: str = "auto", searches: bool = False
) -> Plan:
    """Returns the plan of a valid config.

    Args:
        config: The config.
        target: The devices.
        compiles: "auto" compiles where the compiler is installed, "always" insists on
            it, "never" estimates.
        searches: Whether other meshes, policies and micro-batches are tried, and the
            best of them is planned.

    Raises:
        UsageError: Config and devices do not fit each other, nothing that was searched
            for fits, or the program had to be compiled and could not be.
    """
    choices: list[Choice] = []
    tried = 0
    if searches:
        choices, tried = search(unplaced(config, target))
        choice = choices[0]
    else:
        choice = choice_of(resolve(config, target))
    compiled, why_not = _compiled(choice.subject, compiles)
    return Plan(choice, compiled, why_not, tuple(choices), tried)


def _compiled(subject: Subject, compiles: str) -> tuple[Compiled | None, str]:
    """Returns what the compiler says, or why it does not."""
    platform = subject.target.chip.platform
    if compiles == "never":
        return None, "--compile=never"
    why_not = f"no compiler is here: {_INSTALL}"
    if is_installed(platform):
        say(f"compiling for {subject.target.name}, which takes minutes ...")
        answer = ask(to_json(subject))
        if "error" not in answer:
            return Compiled(**answer), ""
        why_not = f"the compiler: {answer['error']}"
        if OUT_OF_MEMORY in why_not:  # which is an answer as well
            return None, why_not
    if compiles == "always":
        raise UsageError(f"--compile=always: {why_not}")
    return None, why_not
