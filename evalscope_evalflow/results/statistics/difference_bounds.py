"""Bounds of a mean difference that hold where two runs differ in few groups.

The mean ± t·standard error is blind to what was not seen: two runs that agree on 20 of 20 samples have a standard
error of 0, and yet one may be worse by 10 points. On 0/1 scores Tango's score interval gets this right: it computes
the variance for the difference that is being tested, not for the one that was found. Here it is used with the
effective number of samples (the variance of a 0/1 difference over the CR2 variance) and a quantile of t. Fractional
scores are taken by their positive and negative parts, in shares of the scores' range.

Source: T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample
design, Statistics in Medicine 17 (1998).
"""

from __future__ import annotations

from dataclasses import dataclass

from evalscope_evalflow.results.statistics.cluster_robust import RobustMean
from evalscope_evalflow.results.statistics.effective_size import TOO_FEW_GROUPS
from evalscope_evalflow.results.statistics.paired_differences import PairedDifferences

BISECTIONS = 40


@dataclass(frozen=True, slots=True)
class Balance:
    """What was won and lost, per sample, in shares of the scores' range, and how many samples it is worth.

    Attributes:
        won: mean of the positive differences.
        lost: mean of the negative ones, without their sign.
        effective_n: independent samples that would leave as much uncertainty.
    """

    won: float
    lost: float
    effective_n: float

    def reversed(self) -> Balance:
        """The same from the other side."""
        return Balance(self.lost, self.won, self.effective_n)


def balance(data: PairedDifferences, known: RobustMean) -> Balance:
    """The balance of a comparison.

    Where fewer than six groups differ, nothing can be told about how much samples of a group depend on each other: a
    group then counts as one sample. And 0/1 samples are never worth more than their number.

    Args:
        data: the differences.
        known: their mean with its CR2 variance.
    """
    shares = data.differences / data.reach
    won, lost = float(shares.clip(min=0).mean()), float(-shares.clip(max=0).mean())
    groups = data.totals.effective_groups
    variance = known.variance / data.reach**2
    worth = (won + lost - (won - lost) ** 2) / variance if variance > 0 else groups
    if data.discordant < TOO_FEW_GROUPS:
        worth = min(worth, groups)
    if data.zero_or_one:
        worth = min(worth, data.totals.n)
    return Balance(won, lost, max(worth, 1.0))


def score_lower_bound(found: Balance, quantile: float) -> float:
    """The smallest difference (a share of the range) that the score test does not reject."""
    low, high = -1.0, found.won - found.lost
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if score_statistic(found, middle) > quantile:
            low = middle
        else:
            high = middle
    return low


def score_upper_bound(found: Balance, quantile: float) -> float:
    """The largest difference (a share of the range) that the score test does not reject."""
    return -score_lower_bound(found.reversed(), quantile)


def score_statistic(found: Balance, difference: float) -> float:
    """How many standard errors the difference found lies above `difference`, if that were the true one."""
    won, lost = found.won, found.lost
    # The likeliest share of losses under that difference solves 2q² + b·q - c = 0.
    b = (won + lost) * (difference - 1) + 2 * difference * (1 - won)
    c = lost * difference * (1 - difference)
    losses = ((b * b + 8 * c) ** 0.5 - b) / 4 if b * b + 8 * c > 0 else -b / 4
    variance = 2 * losses + difference - difference**2
    distance = won - lost - difference
    if variance <= 0:
        return 0.0 if distance <= 0 else float("inf")
    return float(distance * (found.effective_n / variance) ** 0.5)
