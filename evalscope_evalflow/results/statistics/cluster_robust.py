"""The standard error of a mean whose samples come in groups: CR2, with Satterthwaite's degrees of freedom.

CR2 (bias-reduced linearization) multiplies the residuals of a group g by (I - H_gg)^(-1/2), where H is the hat matrix.
A mean is the coefficient of a regression on a constant, so H_gg is a matrix of 1/N and all has a closed form: with
group sizes n_g, N samples and sums of residuals e_g,

    variance = Σ e_g² / (1 - n_g/N) / N²
    degrees of freedom = N² / (Σ n_g² + Σ_{g≠h} w_g w_h / N²),  w_g = n_g² / (1 - n_g/N)

With one sample a group that is s²/N with N - 1 degrees of freedom, the common t test.

Sources: R. Bell and D. McCaffrey, Bias reduction in standard errors for linear regression with multi-stage samples,
Survey Methodology 28 (2002); J. Pustejovsky and E. Tipton, arXiv 1601.01981.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import TYPE_CHECKING

from evalscope_evalflow.results.statistics.effective_size import GroupTotals

if TYPE_CHECKING:
    from evalscope_evalflow.results.statistics.effective_size import Floats


@dataclass(frozen=True, slots=True)
class RobustMean:
    """A mean and how well it is known.

    Attributes:
        mean: the mean over samples.
        variance: its variance by CR2, never below 0.
        degrees: degrees of freedom that go with it.
    """

    mean: float
    variance: float
    degrees: float

    @property
    def standard_error(self) -> float:
        """The square root of the variance."""
        return sqrt(self.variance)


def robust_mean(totals: GroupTotals) -> RobustMean:
    """The mean over samples with its CR2 variance.

    Raises:
        ValueError: there is only one group, which says nothing about how groups differ.
    """
    sizes, n, mean = totals.sizes, totals.n, totals.mean
    if len(sizes) < 2:
        raise ValueError("one group alone says nothing about how much groups differ")
    residuals = totals.sums - sizes * mean
    # What rounding leaves of nothing is nothing: otherwise three equal differences had p = 0.
    residuals[abs(residuals) <= 1e-12 * (abs(totals.sums) + sizes * abs(mean))] = 0.0
    variance = float((residuals**2 / (1 - sizes / n)).sum()) / n**2
    return RobustMean(mean, variance, satterthwaite_degrees(sizes))


def satterthwaite_degrees(sizes: Floats) -> float:
    """Degrees of freedom of the CR2 variance of a mean over groups of these sizes.

    The working model is that of independent samples, as Bell and McCaffrey's. Groups of one size, G of them: G - 1.
    """
    n = float(sizes.sum())
    weights = sizes**2 / (1 - sizes / n)
    between = float(weights.sum()) ** 2 - float((weights**2).sum())
    return n**2 / (float((sizes**2).sum()) + between / n**2)


@lru_cache(maxsize=1024)
def t_quantile(share: float, degrees: float) -> float:
    """The value that Student's t stays below with a chance of `share`."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))
