"""The differences between two runs on the same samples, summed up for a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalscope_evalflow.results.statistics.effective_size import (
    FEW_GROUPS,
    TOO_FEW_GROUPS,
    GroupTotals,
    group_totals,
    too_unequal,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from evalscope_evalflow.results.statistics.effective_size import Floats

ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class PairedDifferences:
    """Differences of two runs.

    Attributes:
        differences: first minus second, one for each sample.
        totals: their sums by group.
        discordant: groups whose sum is not 0.
        reach: the largest difference that two scores can have.
    """

    differences: Floats
    totals: GroupTotals
    discordant: int
    reach: float

    @property
    def too_few(self) -> bool:
        """Fewer than six effective groups: no verdict."""
        return self.totals.effective_groups < TOO_FEW_GROUPS - ROUNDING

    @property
    def few(self) -> bool:
        """Fewer than ten effective groups, or some that outweigh the others: no t test."""
        return self.totals.effective_groups < FEW_GROUPS - ROUNDING or too_unequal(self.totals.sizes)

    @property
    def sparse(self) -> bool:
        """Fewer than ten groups in which the two differ: no t test either."""
        return self.discordant < FEW_GROUPS

    @property
    def hides_losses(self) -> bool:
        """Whether so few groups differ that how they vary says too little about how far the mean may be off."""
        return self.discordant < (TOO_FEW_GROUPS if self.few else FEW_GROUPS)

    @property
    def zero_or_one(self) -> bool:
        """Whether every difference is none or as large as can be, as with 0/1 scores."""
        sizes = abs(self.differences)
        return bool(((sizes == 0) | (abs(sizes - self.reach) <= ROUNDING * self.reach)).all())


def paired_differences(
    a: ArrayLike, b: ArrayLike, groups: ArrayLike, value_range: tuple[float, float] | None
) -> PairedDifferences:
    """Takes scores of the same samples from each other; the arguments and errors are those of `paired`."""
    import numpy as np

    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"a comparison is over the same samples: {first.shape} scores against {second.shape}")
    differences = first - second
    totals = group_totals(differences, groups)
    # What rounding leaves of nothing is nothing.
    smallest = ROUNDING * max(float(abs(first).max()), float(abs(second).max()))
    differences[abs(differences) <= smallest] = 0.0
    totals.sums[abs(totals.sums) <= smallest * totals.sizes] = 0.0
    discordant = int(np.count_nonzero(totals.sums))
    return PairedDifferences(differences, totals, discordant, _reach(first, second, value_range))


def _reach(first: Floats, second: Floats, value_range: tuple[float, float] | None) -> float:
    """The largest difference that two scores can have."""
    lowest, highest = min(float(first.min()), float(second.min())), max(float(first.max()), float(second.max()))
    if value_range is not None:
        low, high = value_range
        if not low < high or lowest < low or highest > high:
            raise ValueError(f"scores from {lowest:g} to {highest:g} do not fit the range {low:g} to {high:g}")
        return high - low
    if lowest >= 0 and highest <= 1:
        return 1.0
    return max(highest, 0.0) - min(lowest, 0.0)
