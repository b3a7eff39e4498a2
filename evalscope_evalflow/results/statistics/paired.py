"""Compares two runs on the samples that both have: the mean difference, its interval, and its p value.

From 10 effective groups on, (Σn)²/Σn², the test is cluster-robust: CR2 with Satterthwaite's degrees of freedom. With
fewer, where a few large groups outweigh the others, or where the runs differ in fewer than 10 groups, it flips the
signs of group sums, which is exact. Below six effective groups no test can reach 5 %: there is no verdict.
docs/explanation/comparing.md has the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from evalscope_evalflow.results.statistics.cluster_robust import RobustMean, robust_mean, t_quantile
from evalscope_evalflow.results.statistics.difference_bounds import balance, score_lower_bound, score_upper_bound
from evalscope_evalflow.results.statistics.effective_size import GroupTotals
from evalscope_evalflow.results.statistics.paired_differences import PairedDifferences, paired_differences
from evalscope_evalflow.results.statistics.sign_flips import lower_bound, sign_flip_p, subset_means

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

TWO_SIDED, ONE_SIDED = 0.025, 0.05


class PairedMethod(str, Enum):
    """What decided about a difference."""

    CR2 = "cr2"
    """t test with the CR2 standard error and Satterthwaite's degrees of freedom."""
    SIGN_FLIP = "sign-flip"
    """Exact test by flipping the signs of group sums."""
    TOO_FEW = "too-few"
    """Fewer than six effective groups: not decidable."""


@dataclass(frozen=True, slots=True)
class Paired:
    """A paired comparison of two runs; positive where the first has the higher scores.

    Attributes:
        difference: mean of first minus second, over samples.
        low: lower end of its 95 % interval, not adjusted for other comparisons; None: not decidable.
        high: upper end; None likewise.
        p: two-sided p value, not adjusted; None: not decidable.
        lower_one_sided: one-sided lower 95 % bound of the difference: the first run is not worse than the second by
            more than a margin m if this is above -m. None: not decidable.
        effective_groups: (Σn)²/Σn² of the groups' sizes n.
        discordant_groups: groups in which the two do not have the same total.
        wins: samples with the higher score in the first run.
        losses: samples with the higher score in the second.
        ties: samples with equal scores.
        method: what decided.
        decidable: whether there is a verdict, one way or the other.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    lower_one_sided: float | None
    effective_groups: float
    discordant_groups: int
    wins: int
    losses: int
    ties: int
    method: PairedMethod
    decidable: bool

    @property
    def half_width(self) -> float | None:
        """Half the width of the 95 % interval, shown behind "±"; None: not decidable."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def paired(a: ArrayLike, b: ArrayLike, groups: ArrayLike, value_range: tuple[float, float] | None = None) -> Paired:
    """Compares the scores `a` of one run with the scores `b` of another (the baseline) on the same samples.

    Args:
        a: a score for each sample.
        b: the other run's score for the same sample.
        groups: the group of each sample (samples whose scores depend on each other share it), best as integers.
        value_range: lowest and highest possible score, as in `interval`. None: (0, 1) where all scores lie within it,
            otherwise from the lowest to the highest that occur, 0 among them. Only bounds where few groups differ
            depend on it.

    Raises:
        ValueError: there are no samples, a score is not finite or outside the range, or the three are not equally long.
    """
    data = paired_differences(a, b, groups, value_range)
    wins, losses = int((data.differences > 0).sum()), int((data.differences < 0).sum())
    verdict = _Verdict(PairedMethod.TOO_FEW) if data.too_few else _verdict(data)
    return Paired(
        difference=data.totals.mean,
        low=verdict.low,
        high=verdict.high,
        p=verdict.p,
        lower_one_sided=verdict.lower_one_sided,
        effective_groups=data.totals.effective_groups,
        discordant_groups=data.discordant,
        wins=wins,
        losses=losses,
        ties=len(data.differences) - wins - losses,
        method=verdict.method,
        decidable=verdict.method is not PairedMethod.TOO_FEW,
    )


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The part of `Paired` that a test gives."""

    method: PairedMethod
    p: float | None = None
    low: float | None = None
    high: float | None = None
    lower_one_sided: float | None = None


def _verdict(data: PairedDifferences) -> _Verdict:
    known = robust_mean(data.totals)
    by_signs = data.few or data.sparse or known.variance == 0
    low, high, one_sided = _by_signs(data.totals) if data.few else _by_t(known)
    found = balance(data, known)
    p = sign_flip_p(data.totals.sums) if by_signs else _p_by_t(known, data.discordant)
    if data.hides_losses or known.variance == 0:
        quantile = t_quantile(1 - TWO_SIDED, known.degrees)
        low = min(low, score_lower_bound(found, quantile) * data.reach)
        high = max(high, score_upper_bound(found, quantile) * data.reach)
        # The test decides on which side of 0 the difference lies, if on any.
        if p < 2 * TWO_SIDED:
            low, high = (max(low, 0.0), high) if known.mean > 0 else (low, min(high, 0.0))
    if p >= 2 * TWO_SIDED:
        low, high = min(low, 0.0), max(high, 0.0)
    by_score = score_lower_bound(found, t_quantile(1 - ONE_SIDED, known.degrees)) * data.reach
    return _Verdict(
        method=PairedMethod.SIGN_FLIP if by_signs else PairedMethod.CR2,
        p=p,
        low=low,
        high=high,
        lower_one_sided=min(one_sided, by_score),
    )


def _p_by_t(known: RobustMean, discordant: int) -> float:
    """The t test's p value; never below the smallest one that the signs of so many groups could give."""
    from scipy.special import stdtr

    p = 2 * float(stdtr(known.degrees, -abs(known.mean) / known.standard_error))
    return max(p, 2.0 ** (1 - discordant))


def _by_t(known: RobustMean) -> tuple[float, float, float]:
    """Both ends of the interval, and the one-sided lower bound."""
    half = t_quantile(1 - TWO_SIDED, known.degrees) * known.standard_error
    below = t_quantile(1 - ONE_SIDED, known.degrees) * known.standard_error
    return known.mean - half, known.mean + half, known.mean - below


def _by_signs(totals: GroupTotals) -> tuple[float, float, float]:
    """The same by inverting the sign-flip test; six groups or more always have bounds."""
    means = subset_means(totals.sizes, totals.sums)
    low, high, one_sided = lower_bound(means, TWO_SIDED), -lower_bound(-means, TWO_SIDED), lower_bound(means, ONE_SIDED)
    return float(low), float(high), float(one_sided)
