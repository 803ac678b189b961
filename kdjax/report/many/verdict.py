"""The verdict on many settings, in words."""

from collections import Counter
from collections.abc import Iterator

from kdjax.report.compute import compute_sentence
from kdjax.report.cost import duration
from kdjax.report.many.comparison import Comparison, Rival, Setting, total_cost
from kdjax.report.many.lengths import length_sentences
from kdjax.report.statistics import interval_words, outcome
from kdjax.results.data import TEST, VALIDATION

_LISTED = 3  # the most settings that a sentence lists


def verdict(comparison: Comparison) -> list[str]:
    """Returns which setting is best, how sure that is, and whether it beat its twin.

    Returns:
        Paragraphs, the most important first.
    """
    best = comparison.best
    if best is None:
        return [_nothing(comparison), *_incomplete(comparison)]
    if len(comparison.ranked) == 1:
        words = " ".join(best.summary.paragraphs)
        first = f"One setting can be judged, {best.name}. {words}"
        return [first, *_incomplete(comparison)]
    return [
        _best_sentence(comparison, best),
        " ".join(_rival_sentences(comparison, is_tested=_is_tested(best))),
        " ".join(_twin_sentences(comparison, best)),
        *filter(None, [" ".join(length_sentences(comparison))]),
        *_incomplete(comparison),
    ]


def cost_words(comparison: Comparison) -> str:
    """Returns what all finished points took, in words; "" if unknown."""
    cost = total_cost(comparison.settings)
    if cost.seconds is None:
        return ""
    arithmetic = f", {cost.flops:.2g} FLOPs" if cost.flops else ""
    words = (
        f"Training all finished points took {duration(cost.seconds)} of device time"
        f"{arithmetic}; what points share counts once."
    )
    best = comparison.best
    student = best.summary.roles["student"].seconds if best else None
    if student is not None:
        words += f" A student of the best setting took {duration(student.mean)}."
    return words


def _nothing(comparison: Comparison) -> str:
    if comparison.texts > 1:
        splits = [s.results.data.splits[VALIDATION] for s in comparison.settings]
        if len({split.sha256 for split in splits}) == 1:
            return (
                "No setting is called the best: the points were measured on "
                f"{comparison.texts} different numbers of held-out rows "
                "(config.evaluate.final_rows), so their bits/byte cannot be compared."
            )
        return (
            "No setting is called the best: the points were measured on "
            f"{comparison.texts} different held-out texts, so their bits/byte cannot "
            "be compared."
        )
    return (
        f"Nothing to compare yet: none of {len(comparison.points)} points has finished."
    )


def _best_sentence(comparison: Comparison, best: Setting) -> str:
    seeds = f"{best.score.seeds} seeds" if best.score.seeds > 1 else "one seed"
    where = "on held-out text"
    if _is_tested(best):
        test = best.summary.roles["student"].final[TEST]["bits_per_byte"]
        where = (
            f"on the validation split, which chose it, and {test.mean:.4f} on the test "
            "split, by which kdjax chooses nothing"
        )
    return (
        f"Best of {len(comparison.ranked)} settings: {best.name}, at "
        f"{best.score.mean:.4f} bits/byte {where} ({seeds})."
    )


def _is_tested(setting: Setting) -> bool:
    """Returns whether it has figures that are of another split than the ranking."""
    return setting.results.headline == TEST


def _rival_sentences(comparison: Comparison, *, is_tested: bool) -> Iterator[str]:
    rivals, where = comparison.rivals, " on the validation split" if is_tested else ""
    next_one = rivals[0]
    if next_one.lead is None:
        yield f"The next, {next_one.name}, shares no seed with it: nothing to pair."
    elif next_one.lead.half_width is None:
        yield (
            f"The next, {next_one.name}, is {next_one.lead.mean:.4f} bits/byte worse"
            f"{where}. These are single seeds, so the order may be luck; "
            "--config.seeds=3 would show the spread."
        )
        return
    else:
        yield (
            f"The next, {next_one.name}, is {next_one.lead.mean:.4f} bits/byte worse"
            f"{where}, paired over {next_one.lead.seeds} seeds: "
            f"{interval_words(next_one.lead, comparison.confidence)}."
        )
    yield _undecided_sentence(rivals)
    if len(rivals) > 1:
        yield (
            f"{len(rivals)} comparisons with the best share the 5% chance of a mistake "
            "(Bonferroni)."
        )
        if not is_tested:
            yield (
                "A score that was picked as the best of several on the same text "
                "flatters a little."
            )


def _undecided_sentence(rivals: tuple[Rival, ...]) -> str:
    open_ones = [rival.name for rival in rivals if rival.outcome != "won"]
    if not open_ones:
        return "All other settings are worse beyond the spread."
    listed = "; ".join(open_ones[:_LISTED])
    more = len(open_ones) - _LISTED
    rest = f" and {more} more" if more > 0 else ""
    return (
        f"Not told apart from the best: {len(open_ones)} of {len(rivals)} others "
        f"({listed}{rest})."
    )


def _twin_sentences(comparison: Comparison, best: Setting) -> Iterator[str]:
    found = best.summary.difference
    if found is None:
        yield (
            "The best has no twin, trained without the teacher, so whether "
            "distillation paid is not known."
        )
    else:
        side = "better" if found.mean > 0 else "worse"
        where = " on the test split" if _is_tested(best) else ""
        yield (
            f"The best is {abs(found.mean):.4f} bits/byte {side}{where} than its twin "
            "without the teacher, "
            + (
                "of one seed."
                if found.half_width is None
                else f"{interval_words(found)}."
            )
        )
    split = best.results.headline
    scores = {role: best.scores(role, split) for role in best.summary.roles}
    if at_equal_compute := compute_sentence(best.results, scores).strip():
        yield at_equal_compute
    if best.summary.caveats:
        yield best.summary.caveats
    differences = [setting.summary.difference for setting in comparison.ranked]
    known = [difference for difference in differences if difference is not None]
    results = Counter(map(outcome, known))
    if results.total() > 1:
        is_single = all(difference.half_width is None for difference in known)
        yield (
            f"Of {results.total()} settings with a twin, {results['won']} beat it, "
            f"{results['lost']} lost to it, {results['unclear']} undecided"
            f"{' (one seed each)' if is_single else ''}."
        )


def _incomplete(comparison: Comparison) -> Iterator[str]:
    """Yields a sentence on points that are not ranked, if there are any."""
    parts = []
    for state in ("unfinished", "failed", "damaged"):
        count = sum(point.state == state for point in comparison.points)
        if count:
            parts.append(f"{count} {state}")
    left_out = len(comparison.settings) - len(comparison.ranked)
    if comparison.ranked and left_out:
        parts.append(f"{left_out} trained for fewer steps, and not ranked")
    repeated = [name for each in comparison.settings for name in each.repeated]
    if repeated:
        parts.append(
            f"{len(repeated)} that repeat the seeds of another and do not count "
            f"({', '.join(repeated[:_LISTED])})"
        )
    if parts:
        yield f"Of {len(comparison.points)} points: {', '.join(parts)}."
