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


def degrees_of_alike_samples(totals: GroupTotals, square_sum: float) -> float:
    """Degrees of freedom of the CR2 variance, where samples of a group are as much alike as they look.

    The working model gives two samples of a group the covariance that the residuals show, where Bell and McCaffrey's
    has none. With equal sizes nothing changes; with unequal ones, strong group effects leave fewer degrees. All is in
    closed form: the traces of M and M² for M = u·M0 + v·M1, of independent samples and of those all alike.

    Args:
        totals: the values, summed up by group.
        square_sum: sum of the squared deviations of all values from their mean.

    Source: G. Imbens and M. Kolesár, Robust standard errors in small samples, Review of Economics and Statistics 98
    (2016).
    """
    n, size, pairs = totals.n, totals.sizes, float((totals.sizes * (totals.sizes - 1)).sum())
    variance = square_sum / n
    if variance <= 0 or pairs <= 0:
        return satterthwaite_degrees(size)
    residuals = totals.sums - size * totals.mean
    alike = min(max((float((residuals**2).sum()) - square_sum) / pairs, 0.0), variance)
    alone = variance - alike
    x, weights = size / n, size**2 / (1 - size / n)
    s = float((x**2).sum())
    b0, b1, b2 = (float((weights * x**power).sum()) for power in (0, 1, 2))
    diagonal = weights * (1 - 2 * x + s)
    cross = weights**2 * (2 * x - s)
    alone_squared = float((size**2).sum()) + (b0**2 - float((weights**2).sum())) / n**2
    mixed = float((size * diagonal).sum()) + (2 * b0 * b1 - s * b0**2 - float(cross.sum())) / n
    alike_squared = float((diagonal**2).sum()) - float((cross * (2 * x - s)).sum())
    alike_squared += 2 * b0 * b2 + s**2 * b0**2 + 2 * b1**2 - 4 * s * b0 * b1
    trace = alone * n + alike * float(diagonal.sum())
    return trace**2 / (alone**2 * alone_squared + 2 * alone * alike * mixed + alike**2 * alike_squared)


@lru_cache(maxsize=1024)
def t_quantile(share: float, degrees: float) -> float:
    """The value that Student's t stays below with a chance of `share`."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))
