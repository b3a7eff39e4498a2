"""The 95 % interval of a score: how far it may be from what the model would reach on endlessly many such questions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from evalscope_evalflow.results.statistics.cluster_robust import (
    RobustMean,
    degrees_of_alike_samples,
    robust_mean,
    t_quantile,
)
from evalscope_evalflow.results.statistics.effective_size import FEW_GROUPS, GroupTotals, group_totals, too_unequal

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from evalscope_evalflow.results.statistics.effective_size import Floats

PRIOR_GROUPS, UNEQUAL_PRIOR_GROUPS = 2.0, 3.0
CONFIDENCE = 0.95


class IntervalMethod(str, Enum):
    """How an interval was computed."""

    WILSON = "wilson"
    """0/1 scores with one sample a group."""
    WILSON_EFFECTIVE = "wilson-effective"
    """Wilson on the effective number of samples, with a t quantile: groups, repeats, fractional scores."""
    CLUSTERED_T = "clustered-t"
    """The mean ± t·CR2 standard error: scores without known lowest and highest values."""
    RANGE = "range"
    """Nothing but the range of the scores: there is one group only."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The two-sided 95 % interval of a score.

    Attributes:
        low: its lower end, on the scale of the scores; None where nothing can be said.
        high: its upper end; None likewise.
        effective_n: how many independent 0/1 samples would leave as much uncertainty; for a scale without known ends,
            the effective groups.
        groups: groups that the samples fall into.
        few_groups: fewer than 10 effective groups; the interval is a rough one.
        method: how it was computed.
    """

    low: float | None
    high: float | None
    effective_n: float
    groups: int
    few_groups: bool
    method: IntervalMethod


def interval(
    values: ArrayLike, groups: ArrayLike, value_range: tuple[float, float] | None = None, confidence: float = CONFIDENCE
) -> Interval:
    """The interval of the mean of scores.

    0/1 scores with one sample a group get Wilson's interval. Otherwise it is Wilson's on the effective number of
    samples, p(1-p)/variance, with the variance by CR2 and a quantile of t. It never has zero width.

    Args:
        values: the score of each sample.
        groups: the group of each sample (samples whose scores depend on each other share it), best as integers.
        value_range: lowest and highest possible score, such as (0, 10) for a judge's. None: (0, 1) where all values lie
            within it; otherwise unknown, and the interval is the mean ± t·standard error.
        confidence: 0.95 for a 95 % interval.

    Raises:
        ValueError: there are no values, one is not finite or outside the range, or groups are not as many as values.

    Sources: E. B. Wilson, JASA 22 (1927); E. Korn and B. Graubard, Survey Methodology 24 (1998), for the effective
    number of samples with a t quantile.
    """
    import numpy as np

    scores = np.asarray(values, dtype=float)
    totals = group_totals(scores, groups)
    square_sum = float(((scores - totals.mean) ** 2).sum())
    span = value_range or ((0.0, 1.0) if scores.min() >= 0 and scores.max() <= 1 else None)
    if span is None:
        return clustered_t(totals, square_sum, confidence)
    low, high = span
    if not low < high or scores.min() < low or scores.max() > high:
        raise ValueError(f"scores from {scores.min():g} to {scores.max():g} do not fit the range {low:g} to {high:g}")
    groups_found, few = len(totals.sizes), totals.effective_groups < FEW_GROUPS
    shares = GroupTotals(totals.sizes, (totals.sums - low * totals.sizes) / (high - low))
    binary = bool(((scores == low) | (scores == high)).all())
    if binary and groups_found == len(scores):
        n, quantile, method = float(len(scores)), normal_quantile(confidence), IntervalMethod.WILSON
    elif groups_found == 1:
        return Interval(low, high, 1.0, 1, True, IntervalMethod.RANGE)
    else:
        n, method = effective_n(robust_mean(shares), shares, binary), IntervalMethod.WILSON_EFFECTIVE
        quantile = t_quantile((1 + confidence) / 2, degrees_of_alike_samples(totals, square_sum))
    lowest, highest = wilson(min(max(shares.mean, 0.0), 1.0), n, quantile)
    return Interval(low + lowest * (high - low), low + highest * (high - low), n, groups_found, few, method)


def effective_n(known: RobustMean, shares: GroupTotals, binary: bool) -> float:
    """How many independent 0/1 samples would leave as much uncertainty.

    The variance is drawn towards the largest possible one, that of groups whose samples are all alike: with the weight
    of two groups (three, where a few groups outweigh the others) against those that carry the rarer outcome. What the
    spread of very few groups says is little. 0/1 samples are worth no more than their number: where groups look more
    alike than chance makes them, that is chance.
    """
    spread, groups = known.mean * (1 - known.mean), shares.effective_groups
    if spread <= 0:
        return groups
    carrying = min(groups_that_carry(shares.sums), groups_that_carry(shares.sizes - shares.sums))
    prior = UNEQUAL_PRIOR_GROUPS if too_unequal(shares.sizes) else PRIOR_GROUPS
    largest = spread / groups
    variance = known.variance + max(largest - known.variance, 0.0) * prior / (prior + carrying)
    return min(spread / variance, shares.n) if binary else spread / variance


def groups_that_carry(sums: Floats) -> float:
    """How many groups of equal sums would make up the total; 0 without any."""
    squares = float((sums**2).sum())
    return float(sums.sum()) ** 2 / squares if squares > 0 else 0.0


def wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval of a share between 0 and 1 of n samples."""
    square = quantile * quantile / n
    middle = (share + square / 2) / (1 + square)
    half = (square * (share * (1 - share) + square / 4)) ** 0.5 / (1 + square)
    # At 0 and 1 the two ends are exact; rounding would leave 1e-17.
    return (0.0 if share == 0 else max(0.0, middle - half)), (1.0 if share == 1 else min(1.0, middle + half))


def clustered_t(totals: GroupTotals, square_sum: float, confidence: float) -> Interval:
    """The mean ± t·CR2 standard error; without ends where the groups do not differ at all, or are one."""
    groups, effective = len(totals.sizes), totals.effective_groups
    few, method = effective < FEW_GROUPS, IntervalMethod.CLUSTERED_T
    known = robust_mean(totals) if groups > 1 else None
    if known is None or known.variance == 0:
        return Interval(None, None, effective, groups, few, method)
    quantile = t_quantile((1 + confidence) / 2, degrees_of_alike_samples(totals, square_sum))
    half = quantile * known.standard_error
    return Interval(known.mean - half, known.mean + half, effective, groups, few, method)


def normal_quantile(confidence: float) -> float:
    """The normal quantile that is exceeded to either side with a chance of 1 - confidence."""
    from scipy.special import ndtri

    return float(ndtri((1 + confidence) / 2))
