"""Sums up scores by group, and says how many groups of equal size they are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

# Below this, the t distribution is no good approximation: intervals are marked, differences tested by sign-flips.
FEW_GROUPS = 10.0
# Below this, no test of signs can reach 5 %: with 5 groups, the smallest two-sided p is 2/2**5 = 0.0625.
TOO_FEW_GROUPS = 6.0


@dataclass(frozen=True, slots=True)
class GroupTotals:
    """Values, summed up by group.

    Attributes:
        sizes: samples of each group.
        sums: sum of the values of each group.
    """

    sizes: Floats
    sums: Floats

    @property
    def n(self) -> float:
        """Samples in all groups."""
        return float(self.sizes.sum())

    @property
    def mean(self) -> float:
        """The mean over samples."""
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def effective_groups(self) -> float:
        """How many groups of equal size have as much to say: (Σn)²/Σn², the number of groups if all are equal."""
        return effective_groups(self.sizes)


def effective_groups(sizes: Floats) -> float:
    """(Σn)²/Σn² of the groups' sizes n."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def groups_that_swing(sizes: Floats) -> float:
    """(Σn²)²/Σn⁴: the effective groups of a variance to which each group adds n², as if its samples were all alike.

    As many as `effective_groups` where all are of one size; fewer where a few large ones outweigh the others.
    """
    squares = (sizes / sizes.max()) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def too_unequal(sizes: Floats) -> bool:
    """Whether Satterthwaite's degrees of freedom, which take samples for independent, promise too much.

    If group effects are strong, a mean has about as many degrees as groups that swing. Taking 20 for very many leaves
    a test at 5 % with 6.5 % false alarms, and so does taking 10 for 20.
    """
    swinging = groups_that_swing(sizes)
    return swinging < FEW_GROUPS - 1e-9 or swinging < min(2 * FEW_GROUPS, effective_groups(sizes) / 2)


def group_totals(values: Floats, groups: ArrayLike) -> GroupTotals:
    """Sums values up by group.

    Args:
        values: one for each sample.
        groups: the group of each sample; non-negative integers are fastest, anything that can be sorted will do.

    Raises:
        ValueError: there are no values, one is not finite, or the two are not equally long.
    """
    import numpy as np

    labels = np.asarray(groups)
    if values.ndim != 1 or values.shape != labels.shape:
        raise ValueError(f"each sample has one value and one group: {values.shape} values, {labels.shape} groups")
    if not len(values):
        raise ValueError("there are no scores")
    if not np.isfinite(values).all():
        raise ValueError(
            "a score is not a finite number; samples without a score have to be left out, or counted, before"
        )
    if labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < 4 * len(labels) + 100:
        codes = labels
    else:
        codes = np.unique(labels, return_inverse=True)[1]
    sizes = np.bincount(codes)
    present = sizes > 0
    return GroupTotals(sizes[present].astype(float), np.bincount(codes, weights=values)[present].astype(float))
