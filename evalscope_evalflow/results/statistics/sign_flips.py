"""Tests a mean difference exactly, by flipping the signs of group sums.

If two models do not differ, each group's sum of differences might as well have had the other sign. So all ways to set
the signs are equally likely, and p is the share of them with a total at least as far from 0 as the one found. With
one sample a group and scores of 0 and 1, that is McNemar's exact test.

The bound of the difference inverts the test. A difference δ is rejected by the signs of s_g - δ·n_g, and that comes
down to the means over all non-empty subsets of the groups: the number of those at or below δ is what decides
(J. Hartigan, Using subsample values as typical values, JASA 64 (1969)).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalscope_evalflow.results.statistics.effective_size import Floats

# All 2**17 sign patterns are gone through in some milliseconds. Beyond, a fixed sample of patterns stands for all of
# them, which keeps the test valid: the pattern found counts as one of them.
MOST_GROUPS = 18
SAMPLES = 9_999
MOST_GROUPS_OF_SUBSETS = 12
MOST_VALUES = 2_000_000
SEED = 20_261_127
# Scores that are multiples of 1/m (repeats, pass@k, judge scores) have an exact distribution for any number of groups.
DENOMINATORS = (*range(1, 65), 100, 1000)
MOST_LATTICE_STEPS = 2_000_000
ROUNDING = 1e-9


def sign_flip_p(sums: Floats) -> float:
    """The two-sided p value of a total, by all ways to set the signs of the group sums.

    Exact up to 18 groups that differ, and for any number of them where sums are multiples of a common fraction;
    otherwise by 9,999 patterns drawn with a fixed seed.

    Args:
        sums: sum of the differences of each group.
    """
    import numpy as np

    sizes = np.abs(sums)
    sizes = sizes[sizes > ROUNDING * max(float(sizes.max(initial=0.0)), 1e-300)]
    if not len(sizes):
        return 1.0
    found = abs(float(sums.sum())) * (1 - ROUNDING) - ROUNDING * float(sizes.max())
    steps = on_a_lattice(sizes)
    if steps is not None:
        totals, shares = lattice_distribution(steps)
        return min(1.0, float(shares[abs(totals) * (sizes.sum() / steps.sum()) >= found].sum()))
    if len(sizes) <= MOST_GROUPS:
        # The other half of the patterns mirrors these.
        return float((abs(all_totals(sizes[1:]) + sizes[0]) >= found).mean())
    # Groups without a difference change nothing, and leave the number of groups to be that of the bounds.
    every = np.abs(sums)
    totals = np.concatenate([2 * (chosen @ every) - every.sum() for chosen in sampled_subsets(len(every))])
    return float((1 + (abs(totals) >= found).sum()) / (1 + len(totals)))


def subset_means(sizes: Floats, sums: Floats, samples: int = SAMPLES) -> Floats:
    """The mean over each non-empty subset of the groups, or over 9,999 drawn ones of more than 12 groups.

    Args:
        sizes: samples of each group.
        sums: sums of the groups along the last axis; further axes are draws of them.
        samples: subsets to draw where there are more than 12 groups.

    Returns:
        The means along the last axis.
    """
    import numpy as np

    groups = len(sizes)
    parts = [all_subsets(groups)] if groups <= MOST_GROUPS_OF_SUBSETS else sampled_subsets(groups, samples)
    return np.concatenate([(sums @ chosen.T) / (chosen @ sizes) for chosen in parts], axis=-1)


def lower_bound(means: Floats, alpha: float) -> Floats:
    """The smallest difference that the one-sided test at level `alpha` does not reject.

    Args:
        means: `subset_means`.
        alpha: such as 0.05 for a one-sided bound of 95 %, or 0.025 for the lower end of a two-sided interval.

    Returns:
        The bound, for each draw; -inf where there are so few groups that no difference is ever rejected.
    """
    import numpy as np

    rank = int(np.floor(alpha * (means.shape[-1] + 1) + ROUNDING))
    if rank < 1:
        return np.full(means.shape[:-1], -np.inf)
    return np.asarray(np.partition(means, rank - 1, axis=-1)[..., rank - 1])


@lru_cache(maxsize=8)
def all_subsets(groups: int) -> Floats:
    """A row of 0 and 1 for each non-empty subset of the groups."""
    import numpy as np

    return np.asarray(np.arange(1, 2**groups)[:, None] >> np.arange(groups) & 1, dtype=float)


def sampled_subsets(groups: int, samples: int = SAMPLES) -> Iterator[Floats]:
    """Rows of 0 and 1 for non-empty subsets drawn with a fixed seed, some at a time."""
    return iter((kept_subsets(groups, samples),)) if groups * samples <= MOST_VALUES else drawn_subsets(groups, samples)


@lru_cache(maxsize=4)
def kept_subsets(groups: int, samples: int) -> Floats:
    """All of `drawn_subsets`, for the next comparison over as many groups."""
    import numpy as np

    return np.concatenate(list(drawn_subsets(groups, samples)))


def drawn_subsets(groups: int, samples: int) -> Iterator[Floats]:
    """As `sampled_subsets`."""
    import numpy as np

    random = np.random.default_rng(SEED)
    step = max(1, MOST_VALUES // groups)
    for start in range(0, samples, step):
        shape = (min(step, samples - start), groups)
        drawn = np.asarray(random.integers(0, 2, shape, dtype=np.int8), dtype=float)
        yield drawn[drawn.any(axis=1)]


def all_totals(sizes: Floats) -> Floats:
    """The total of each of the 2**n ways to set the signs."""
    totals: Floats = 2 * subset_totals(sizes) - sizes.sum()
    return totals


def subset_totals(values: Floats) -> Floats:
    """The total of each of the 2**n subsets; the first is that of the empty one."""
    import numpy as np

    totals = np.zeros(1)
    for value in values:
        totals = np.concatenate((totals, totals + value))
    return totals


def on_a_lattice(sizes: Floats) -> Floats | None:
    """The values as integers, where they are multiples of a common fraction; None where they are not."""
    import numpy as np

    for denominator in DENOMINATORS:
        scaled = sizes * denominator
        steps = np.rint(scaled)
        if (abs(scaled - steps) <= 1e-7).all() and steps.min() >= 1:
            fits = bool(steps.sum() * len(steps) <= MOST_LATTICE_STEPS)
            return np.asarray(steps, dtype=float) if fits else None
    return None


def lattice_distribution(steps: Floats) -> tuple[Floats, Floats]:
    """The possible totals of ±steps, and the share of sign patterns that give each."""
    import numpy as np

    widths = steps.astype(int)
    most = int(widths.sum())
    shares = np.zeros(2 * most + 1)
    shares[most] = 1.0
    for width in widths:
        moved = np.zeros_like(shares)
        moved[width:] = shares[:-width]
        moved[:-width] += shares[width:]
        shares = moved / 2
    return np.arange(-most, most + 1).astype(float), shares
