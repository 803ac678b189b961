"""The model card of a student or twin, in Markdown."""

import pathlib
from collections.abc import Iterator

from kdjax.report.summary import summarise
from kdjax.report.tables import table
from kdjax.report.words import origin, setting, stored_weights
from kdjax.results.measured import Results, teacher_role


def model_card(results: Results, run: str) -> str:
    """Returns the card of one of the models: what it is, how it was made, how good.

    Args:
        results: What the experiment measured.
        run: The model's run, such as "student-0" or "twin-1".
    """
    config, data, summary = results.config, results.data, summarise(results)
    training, environment = config.student.train, results.environment
    how = "hard labels alone, as the student's twin"
    if run.startswith("student"):
        how = (
            f"{config.distill.kind}, alpha {setting(config.distill.alpha)}, "
            f"temperature {setting(config.distill.temperature)}"
        )
    # The report may be of fewer seeds than there are runs.
    steps = {found.name: found.steps for found in results.runs}.get(run)
    parameters = results.models[summary.roles["student"].model].parameters
    rows = (
        ("parameters", f"{parameters:,}"),
        ("began as", origin(results)),
        ("loss", how),
        *_teacher_rows(results, run),
        ("data", f"{data.source}, in rows of {data.length} tokens"),
        ("data's sha256", data.splits["train"].sha256),
        ("training", f"{steps or training.steps} steps of {training.batch_size} rows"),
        ("made with", f"jax {environment.jax} on {environment.device}"),
        ("made at", results.created),
    )
    lines = (f"- {name}: {value}" for name, value in rows if value)
    return "\n".join(
        (
            "---\nlibrary_name: transformers\ntags: [knowledge-distillation]\n---\n",
            f"# {pathlib.PurePath(results.workdir).name}: {run}\n",
            *lines,
            "\nMeans over the seeds of the experiment; an arrow points to better.\n",
            f"```\n{table(results)}\n```\n",
            "\n\n".join(summary.paragraphs) + "\n",
        )
    )


def _teacher_rows(results: Results, run: str) -> Iterator[tuple[str, str]]:
    """Yields what a model card says of the teachers of a run, or of its rivals."""
    taught = {found.name: found.teachers for found in results.runs}
    for name in taught.get(run) or results.teachers:
        teacher, title = results.teachers[name], teacher_role(name)
        size = results.models[title].parameters
        # Whoever reads the card has another machine: the directories above are no use.
        place = teacher.hub or "/".join(pathlib.PurePath(teacher.path).parts[-2:])
        source = ", ".join(filter(None, (stored_weights(teacher), place)))
        yield title, f"{size:,} parameters, {source}"
        yield f"{title}'s sha256", teacher.sha256
