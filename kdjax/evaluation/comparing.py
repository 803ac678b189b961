"""Models on disk, each measured on the same text and items, side by side."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from kdjax.checkpoints import StoredModel
from kdjax.config.schema import DataConfig
from kdjax.core.errors import UsageError
from kdjax.core.logging import say
from kdjax.evaluation.evaluators import Evaluator, make_evaluator
from kdjax.evaluation.held_out import HeldOutText, OwnMetrics
from kdjax.evaluation.items import Items
from kdjax.evaluation.likelihood import Subject
from kdjax.evaluation.texts import TextFiles
from kdjax.losses import MAX_PADDING, LossSharding
from kdjax.targets.online import Predict
from kdjax.text import SpecialTokens, TextTokenizer
from kdjax.train.task import next_token_task

TEACHER = "teacher"
_LONGEST = 512  # tokens of a row of text, where models allow and nothing else is asked
_UNSHOWN = ("calibration", "by_entropy")  # several numbers each

Found = dict[str, dict[str, dict[str, Any]]]  # metrics by data, model and name


class Settings(NamedTuple):
    """How models are measured.

    Attributes:
        mesh: The devices.
        batch_size: Rows at a time, divisible by the devices along the batch.
        length: Tokens of a row of text; 0: 512, or as many as the models can read.
        special_tokens: Whether control tokens in texts are text or are parsed.
        dtype: Of parameters and computation; None: as stored.
        limit: How many documents of a text are read; 0: all.
        own: The user's own metrics of a token in text.
    """

    mesh: Mesh
    batch_size: int
    length: int = 0
    special_tokens: SpecialTokens = "text"
    dtype: str | None = None
    limit: int = 0
    own: OwnMetrics = ()


class _Teacher(NamedTuple):
    predict: Predict
    params: Any


def measure(
    models: Mapping[str, StoredModel],
    data: Mapping[str, DataConfig | Items],
    settings: Settings,
    teacher: StoredModel | None = None,
) -> Found:
    """Returns the metrics of every model on all data.

    Only one model's parameters, and the teacher's, are in memory at a time.

    Args:
        models: By the names of their columns.
        data: Text, or items, by name.
        settings: How to measure.
        teacher: What text is compared with; it is measured as well.

    Raises:
        UsageError: Models or data cannot be read, or do not fit each other.
    """
    columns = dict(models) | ({TEACHER: teacher} if teacher is not None else {})
    has_text = any(isinstance(each, DataConfig) for each in data.values())
    if has_text:
        length = _length(columns, settings)
        settings = settings._replace(length=length)
        if teacher is not None:
            for name, stored in models.items():
                _check_ids(name, stored, teacher)
    loaded = None
    if teacher is not None:
        model, params = teacher.load(settings.mesh, dtype=settings.dtype)
        subject, loaded = Subject.of(model), (model, params)
        compared = _Teacher(subject.predict, params)
    found: Found = {name: {} for name in data}
    for name, stored in columns.items():
        say(f"{name}: {stored.path}")
        if name == TEACHER and loaded is not None:
            model, params = loaded
        else:
            model, params = stored.load(settings.mesh, dtype=settings.dtype)
        subject = Subject.of(model)
        for kind, each in data.items():
            evaluator = _evaluator(
                kind, each, stored.tokenizer, settings, compared if loaded else None
            )
            size = {"items": len(each.items)} if isinstance(each, Items) else {}
            found[kind][name] = size | evaluator(subject, params)
        del params
    return found


def named(paths: Sequence[str]) -> dict[str, str]:
    """Returns models' paths by the shortest names that tell them apart.

    Example:
        >>> list(named(["runs/a/student-0", "runs/b/student-0", "x.gguf"]))
        ['a/student-0', 'b/student-0', 'x.gguf']
    """
    parts = {path: path.rstrip("/").split("/") for path in paths}

    def name(path: str) -> str:
        for count in range(1, len(parts[path])):
            short = parts[path][-count:]
            is_taken = sum(other[-count:] == short for other in parts.values()) > 1
            if not is_taken and short != [TEACHER]:
                return "/".join(short)
        return f"./{path}" if path == TEACHER else path

    return {name(path): path for path in paths}


def to_json(
    found: Found, models: Mapping[str, StoredModel], teacher: StoredModel | None
) -> dict[str, Any]:
    """Returns what was found, and of which models, as JSON can hold it."""
    columns = dict(models) | ({TEACHER: teacher} if teacher is not None else {})
    return {
        "models": {
            name: {"path": str(stored.path), "sha256": stored.fingerprint}
            for name, stored in columns.items()
        },
        "metrics": {
            data: {
                name: metrics
                | {
                    key: [dataclasses.asdict(each) for each in metrics[key]]
                    for key in _UNSHOWN
                    if key in metrics
                }
                for name, metrics in columns.items()
            }
            for data, columns in found.items()
        },
    }


def _evaluator(
    name: str,
    data: DataConfig | Items,
    tokenizer: TextTokenizer,
    settings: Settings,
    teacher: _Teacher | None,
) -> Evaluator:
    mesh, size, special = settings.mesh, settings.batch_size, settings.special_tokens
    if isinstance(data, Items):
        return make_evaluator(
            data._replace(name=name),
            tokenizer,
            mesh=mesh,
            batch_size=size,
            special_tokens=special,
        )
    data = dataclasses.replace(
        data,
        length=settings.length,
        special_tokens=special,
        validation_fraction=0.0,
        test_fraction=0.0,
    )
    text = TextFiles(data, tokenizer, mesh=mesh, batch_size=size, limit=settings.limit)
    return HeldOutText(
        name,
        next_token_task()._replace(finish=text.finish),
        text.batches,
        teacher=teacher.predict if teacher else None,
        frozen=teacher.params if teacher else None,
        own=settings.own,
        loss_sharding=LossSharding(mesh),
    )


def _length(models: Mapping[str, StoredModel], settings: Settings) -> int:
    """Returns the length of a row, which all models can read."""
    limits = {name: stored.config.max_length for name, stored in models.items()}
    limits = {name: limit for name, limit in limits.items() if limit}
    shortest = min(limits, key=lambda name: limits[name], default="")
    if not settings.length:
        return min([_LONGEST, *limits.values()])
    if shortest and settings.length > limits[shortest]:
        raise UsageError(
            f"--length={settings.length} exceeds the {limits[shortest]} positions that "
            f"{shortest} was made for; lower it"
        )
    return settings.length


def _check_ids(name: str, stored: StoredModel, teacher: StoredModel) -> None:
    """Raises unless two models' distributions can be compared."""
    shared = stored.shares_ids(teacher.tokenizer) or teacher.shares_ids(
        stored.tokenizer
    )
    mine, theirs = stored.config.vocab_size, teacher.config.vocab_size
    if not shared or abs(mine - theirs) > MAX_PADDING:
        raise UsageError(
            f"{name} has another tokenizer than the teacher, so their predictions of a "
            "text cannot be compared; give the teacher as another --checkpoint"
        )


class _Shown(NamedTuple):
    label: str
    decimals: int
    scale: float = 1.0


_SHOWN = {
    "bits_per_byte": _Shown("bits/byte ↓", 4),
    "perplexity": _Shown("perplexity (per token) ↓", 3),
    "cross_entropy": _Shown("cross-entropy (nats/token) ↓", 4),
    "accuracy": _Shown("top-1 accuracy (%) ↑", 2, 100.0),
    "calibration_error": _Shown("expected calibration error (%) ↓", 2, 100.0),
    "forward_kl": _Shown("KL(teacher||model) (nats/token) ↓", 4),
    "reverse_kl": _Shown("KL(model||teacher) (nats/token) ↓", 4),
    "agreement": _Shown("top-1 agreement with teacher (%) ↑", 2, 100.0),
    "acceptance": _Shown("speculative-decoding acceptance (%) ↑", 2, 100.0),
    "acc": _Shown("accuracy (%) ↑", 2, 100.0),
    "acc_norm": _Shown("accuracy, per character (%) ↑", 2, 100.0),
    "acc_bytes": _Shown("accuracy, per byte (%) ↑", 2, 100.0),
    "exact_match": _Shown("exact match (%) ↑", 2, 100.0),
    "tokens": _Shown("tokens", 0),
    "bytes": _Shown("bytes", 0),
    "lost_bytes": _Shown("bytes without an id", 0),
    "items": _Shown("items", 0),
}


def table(title: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the metrics of one text or task as aligned lines, a column a model."""
    names = dict.fromkeys(name for metrics in found.values() for name in metrics)
    shown = [*(n for n in _SHOWN if n in names), *(n for n in names if n not in _SHOWN)]
    rows = [(title, *found)]
    for name in shown:
        if name.endswith("_stderr") or name in _UNSHOWN:
            continue
        if name == "lost_bytes" and not any(m.get(name) for m in found.values()):
            continue
        label = _SHOWN.get(name, _Shown(name, 4))
        rows.append((label.label, *(_cell(m, name, label) for m in found.values())))
    return _aligned(rows)


def _cell(metrics: Mapping[str, Any], name: str, shown: _Shown) -> str:
    if name not in metrics:
        return "-"
    text = f"{metrics[name] * shown.scale:z,.{shown.decimals}f}"
    if (error := metrics.get(f"{name}_stderr")) is not None:
        text += f" ± {error * shown.scale:,.{shown.decimals}f}"
    return text


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *body = rows
    return "\n".join(
        "  ".join((label.ljust(widths[0]), *map(str.rjust, cells, widths[1:])))
        for label, *cells in (header, ["-" * width for width in widths], *body)
    )
