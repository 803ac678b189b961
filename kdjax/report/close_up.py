"""What the page shows of single texts, made from the runs of one experiment."""

from typing import Any, NamedTuple

from kdjax.results.measured import Results, Run
from kdjax.results.samples import PassageToken

_STRONGEST = 0.97  # the quantile of KL that gets the full colour
_LEAST_SCALE = 0.1  # nats; below it, differences are not worth any colour


class Reading(NamedTuple):
    """A passage as one model reads it.

    Attributes:
        name: The model's role.
        tokens: What the model predicts for each token, and what the teacher does.
        scale: The KL, in nats, that gets the full colour.
    """

    name: str
    tokens: list[tuple[PassageToken, PassageToken]]
    scale: float


def readings(results: Results) -> list[Reading]:
    """Returns the passage as the student and the twin read it, if it was measured."""
    teacher = _first(results, "teacher")
    if teacher is None or teacher.passage is None:
        return []
    taught = teacher.passage.tokens
    models = {role: _first(results, role) for role in ("student", "twin")}
    passages = {
        role: run.passage for role, run in models.items() if run and run.passage
    }
    values = sorted(
        token.forward_kl
        for passage in passages.values()
        for token in passage.tokens
        if token.forward_kl is not None
    )
    # One scale for all, so that their colours can be compared.
    strongest = values[int(_STRONGEST * (len(values) - 1))] if values else 0.0
    scale = max(_LEAST_SCALE, strongest)
    return [
        Reading(role, [*zip(passage.tokens, taught, strict=True)], scale)
        for role, passage in passages.items()
        if len(passage.tokens) == len(taught)
    ]


def continuations(results: Results) -> list[dict[str, Any]]:
    """Returns each prompt with how the text itself and each model continue it."""
    found: dict[str, dict[str, Any]] = {}
    for run in results.runs:
        for each in run.continuations:
            entry = found.setdefault(
                each.prompt,
                {"prompt": each.prompt, "texts": {"the text itself": each.expected}},
            )
            entry["texts"].setdefault(run.role, each.text)
    return [*found.values()]


def _first(results: Results, role: str) -> Run | None:
    return next((run for run in results.runs if run.role == role), None)
