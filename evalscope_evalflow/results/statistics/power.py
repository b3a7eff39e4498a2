"""How large a difference has to be before a comparison is likely to show it.

A t test shows a true difference δ with a chance that follows the noncentral t distribution at δ over the standard
error; for groups of equal size that is `statsmodels.stats.power.TTestPower`. A sign-flip test has no such formula:
there, normal group effects are drawn with a fixed seed.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt
from typing import TYPE_CHECKING

from evalscope_evalflow.results.statistics.cluster_robust import robust_mean, t_quantile
from evalscope_evalflow.results.statistics.difference_bounds import Balance, balance
from evalscope_evalflow.results.statistics.effective_size import TOO_FEW_GROUPS, effective_groups
from evalscope_evalflow.results.statistics.paired_differences import paired_differences
from evalscope_evalflow.results.statistics.sign_flips import SEED, lower_bound, subset_means

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

ALPHA, POWER = 0.05, 0.8
DRAWS, SUBSETS = 2_000, 999


def power(difference: float, standard_error: float, degrees: float, alpha: float = ALPHA) -> float:
    """The chance that a two-sided t test shows a true difference.

    Args:
        difference: the true mean difference.
        standard_error: of the mean difference where that is the true one; above 0.
        degrees: degrees of freedom of the standard error; for G groups of equal size, G - 1.
        alpha: the test's level.

    Raises:
        ValueError: the standard error or the degrees of freedom are not above 0.
    """
    from scipy.special import nctdtr

    if not standard_error > 0 or not degrees > 0:
        raise ValueError(f"a standard error and its degrees of freedom are above 0: {standard_error}, {degrees}")
    away = abs(difference) / standard_error
    quantile = t_quantile(1 - alpha / 2, degrees)
    missed = float(nctdtr(degrees, away, quantile)) - float(nctdtr(degrees, away, -quantile))
    # Some 40 standard errors away, the series of the distribution function has no value; nothing is missed there.
    return 1 - missed if missed == missed else 1.0


@lru_cache(maxsize=1024)
def standard_errors_needed(degrees: float, chance: float = POWER, alpha: float = ALPHA) -> float:
    """How many standard errors a true difference has to be large for a t test to show it with that chance."""
    low, high = 0.0, 10.0
    while power(high, 1.0, degrees, alpha) < chance:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, 1.0, degrees, alpha) >= chance else (middle, high)
    return high


def smallest_difference(
    a: ArrayLike,
    b: ArrayLike,
    groups: ArrayLike,
    value_range: tuple[float, float] | None = None,
    chance: float = POWER,
    alpha: float = ALPHA,
) -> float | None:
    """The smallest true difference that a comparison of such data would have shown with a chance of 80 %.

    It goes by how much the two runs' differences vary, not by the difference found. 0/1 scores are taken to differ in
    as many samples as they do, but more one-sidedly. And six groups more have to be won than lost at the least.

    Args:
        a, b, groups, value_range: as in `paired`.
        chance: 0.8 for 80 %.
        alpha: the level; 0.05/m for the first of m comparisons under Holm.

    Returns:
        The difference, on the scale of the scores; None where there are too few groups for any verdict.
    """
    data = paired_differences(a, b, groups, value_range)
    if data.too_few:
        return None
    known = robust_mean(data.totals)
    found = balance(data, known)
    least = six_one_sided(found, chance) * data.reach if data.zero_or_one or data.hides_losses else 0.0
    if data.few:
        sizes = tuple(sorted((data.totals.sizes / data.totals.sizes.max()).tolist()))
        return max(standard_errors_for_signs(sizes, chance, alpha) * known.standard_error, least)
    needed = standard_errors_needed(known.degrees, chance, alpha)
    if not data.zero_or_one:
        return max(needed * known.standard_error, least)
    one_sided = needed * sqrt((found.won + found.lost) / (found.effective_n + needed**2))
    return max(one_sided * data.reach, least)


def six_one_sided(found: Balance, chance: float) -> float:
    """The share of samples that has to be won, none lost, so that six or more are won with that chance.

    Fewer than six groups that differ cannot be told from chance, whichever way they point.
    """
    from scipy.special import betaincinv

    return float(betaincinv(TOO_FEW_GROUPS, max(found.effective_n, TOO_FEW_GROUPS) - TOO_FEW_GROUPS + 1, chance))


@lru_cache(maxsize=256)
def standard_errors_for_signs(sizes: tuple[float, ...], chance: float = POWER, alpha: float = ALPHA) -> float:
    """How many standard errors a true difference has to be large for sign-flips to show it with that chance.

    Adding δ to all scores moves the test's bound by δ. So it is enough to look how far the bound lies below 0 when
    there is no difference.

    Args:
        sizes: of the groups, in any unit.
    """
    import numpy as np

    totals = np.asarray(sizes)
    effects = np.random.default_rng(SEED).standard_normal((DRAWS, len(totals)))
    below = -lower_bound(subset_means(totals, effects * totals, SUBSETS), alpha / 2)
    return float(np.quantile(below, chance)) * sqrt(effective_groups(totals))
