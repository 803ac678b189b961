"""KL(teacher||model) against how unsure the teacher is."""

import collections
from collections.abc import Iterable
from typing import Any, NamedTuple

from matplotlib import figure

from kdjax.report.plots.canvas import (
    LABELS,
    add_legend,
    is_teacher,
    make_drawing,
    png,
    styles,
    tidy,
)
from kdjax.report.summary import Summary
from kdjax.results.measured import EntropyBucket, Results


class Pooled(NamedTuple):
    """The tokens of all seeds in one bucket: the mean KL, and how many there are."""

    low: float
    high: float | None
    forward_kl: float
    tokens: int


def entropy(results: Results, summary: Summary) -> bytes | None:
    """Returns a PNG of KL(teacher||model) by the teacher's entropy.

    Args:
        results: What the experiment measured.
        summary: What `summarise` says of it.

    Returns:
        The content of the file; None for results of versions that did not measure it.
    """
    drawing = _draw_entropy(results, summary)
    return None if drawing is None else png(drawing)


def _draw_entropy(results: Results, summary: Summary) -> figure.Figure | None:
    looks = styles(summary.roles)
    lines = {
        role: pooled
        for role in summary.roles
        if not is_teacher(role)
        and (
            pooled := pool(
                bucket
                for run in results.runs
                if run.role == role
                for bucket in run.final[results.headline].by_entropy
            )
        )
    }
    if not lines:
        return None
    ends = {bucket.low: bucket.high for line in lines.values() for bucket in line}
    places = {low: place for place, low in enumerate(sorted(ends))}
    drawing = make_drawing(4.6)
    upper, lower = drawing.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)}
    )
    for role, line in lines.items():
        style: dict[str, Any] = {**looks[role]}
        x, y = [places[b.low] for b in line], [b.forward_kl for b in line]
        upper.plot(x, y, lw=1.8, ms=5, label=LABELS.get(role, role), **style)
    first = next(iter(lines.values()))
    total = sum(bucket.tokens for bucket in first)
    shares = [100 * bucket.tokens / total for bucket in first]
    lower.bar([places[b.low] for b in first], shares, color="#999999", width=0.7)
    tidy(upper)
    tidy(lower)
    names = [
        f"from {low:g}" if ends[low] is None else f"{low:g} to {ends[low]:g}"
        for low in places
    ]
    lower.set_xticks(range(len(places)), names, fontsize=8)
    if len(places) > 6:
        lower.tick_params("x", rotation=30)
    upper.set(
        title="Where the student differs: KL by the teacher's entropy",
        ylabel="KL(teacher||model), nats",
    )
    upper.set_ylim(bottom=0.0)
    lower.set(xlabel="entropy of the teacher's prediction, nats", ylabel="tokens, %")
    add_legend(drawing, upper)
    return drawing


def pool(buckets: Iterable[EntropyBucket]) -> list[Pooled]:
    """Returns all seeds' buckets by entropy, weighted by their tokens."""
    pools = collections.defaultdict(list)
    for bucket in buckets:
        pools[bucket.low].append(bucket)
    result = []
    for low, found in sorted(pools.items()):
        count = sum(bucket.count for bucket in found)
        total = sum(bucket.forward_kl * bucket.count for bucket in found)
        if count > 0:
            result.append(Pooled(low, found[0].high, total / count, count))
    return result
