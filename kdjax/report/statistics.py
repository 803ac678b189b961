"""Numbers over seeds: means, spreads, and how sure a mean is."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Literal

from scipy import special

CONFIDENCE = 0.95
Scores = Mapping[int, float]  # bits/byte by seed
Outcome = Literal["won", "lost", "unclear", "no_baseline"]


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A number over seeds.

    Attributes:
        mean: Over the seeds that have the number.
        seeds: How many these are.
        spread: The sample standard deviation; None for a single seed.
        standard_error: Of the mean; None for a single seed.
        half_width: Half the confidence interval of the mean, by Student's t; None for
            a single seed.
    """

    mean: float
    seeds: int
    spread: float | None = None
    standard_error: float | None = None
    half_width: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval of the mean; for a single seed the mean, twice."""
        half = self.half_width or 0.0
        return self.mean - half, self.mean + half


def statistic(
    values: Iterable[float | None], confidence: float = CONFIDENCE
) -> Statistic | None:
    """Returns mean, spread and confidence of the values that are known, if any is."""
    known = [value for value in values if value is not None]
    return over_seeds(known, confidence) if known else None


def over_seeds(values: Iterable[float], confidence: float = CONFIDENCE) -> Statistic:
    """Returns mean, spread and confidence of at least one value.

    With few seeds, two standard errors hold the true mean far less often than 95% of
    the time: for three, Student's t asks for 4.3 of them.

    Example:
        >>> found = over_seeds([0.1, 0.11, 0.09])
        >>> round(found.half_width / found.standard_error, 2)
        4.3
    """
    known = [*values]
    seeds = len(known)
    if not all(map(math.isfinite, known)):  # of a model that diverged
        unknown = (math.nan,) * 3 if seeds > 1 else ()
        return Statistic(sum(known) / seeds, seeds, *unknown)
    mean = statistics.fmean(known)
    if seeds == 1:
        return Statistic(mean, seeds)
    spread = statistics.stdev(known)
    error = spread / math.sqrt(seeds)
    quantile = float(special.stdtrit(seeds - 1, 0.5 + confidence / 2))
    return Statistic(mean, seeds, spread, error, quantile * error)


def difference(
    better: Scores, worse: Scores, confidence: float = CONFIDENCE
) -> Statistic | None:
    """Returns how much lower the first scores are, over the seeds that both have."""
    shared = (seed for seed in better if seed in worse)
    return statistic((worse[seed] - better[seed] for seed in shared), confidence)


def outcome(found: Statistic | None) -> Outcome:
    """Returns whether a difference is beyond the spread of the seeds.

    That is, whether its confidence interval excludes zero; of one seed the sign
    decides, and whoever puts it into words must say that it was one seed.
    """
    if found is None:
        return "no_baseline"
    if abs(found.mean) > (found.half_width or 0.0):
        return "won" if found.mean > 0 else "lost"
    return "unclear"


def interval_words(found: Statistic, confidence: float = CONFIDENCE) -> str:
    """Returns whether a difference is beyond the spread, in words, with its interval.

    Example:
        >>> interval_words(over_seeds([0.1, 0.11, 0.09]))
        'beyond the spread (95% interval 0.0752 to 0.1248)'
    """
    where = "within" if outcome(found) == "unclear" else "beyond"
    low, high = found.interval
    shown = f"{100 * confidence:.4g}%"
    return f"{where} the spread ({shown} interval {low:z.4f} to {high:z.4f})"
