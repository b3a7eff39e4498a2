"""Coverage of the intervals of scores, and of the bound that non-inferiority goes by, on made-up data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special, stats
from simulated_scores import Array

from evalscope_evalflow.results.statistics import interval, paired
from evalscope_evalflow.results.statistics.intervals import normal_quantile, wilson


def exact_coverage(n: int) -> Array:
    """Coverage of the interval of a share of n single samples, at 901 true shares from 0.05 to 0.95."""
    counts, shares = np.arange(n + 1), np.linspace(0.05, 0.95, 901)
    ends = np.array([wilson(count / n, n, normal_quantile(0.95)) for count in counts])
    inside = (ends[:, 0] <= shares[:, None]) & (shares[:, None] <= ends[:, 1])
    return np.asarray((stats.binom.pmf(counts, n, shares[:, None]) * inside).sum(axis=1))


def clustered_scores(
    sizes: Sequence[int], share: float, alike: float, kind: str, draws: int, random: np.random.Generator
) -> Array:
    """Scores with a mean of `share`: an array of the shape (draws, samples).

    Args:
        sizes: samples of each group.
        share: the true mean.
        alike: correlation of two samples of a group, 0 to 1; the groups' own means have a beta distribution.
        kind: "binary", "fractional" (around the group's mean) or "repeated" (a mean of four 0/1 answers).
    """
    shape = (draws, len(sizes))
    if alike == 0:
        means = np.full(shape, share)
    elif alike == 1:
        means = (random.random(shape) < share).astype(float)
    else:
        means = random.beta(share * (1 / alike - 1), (1 - share) * (1 / alike - 1), shape)
    chances = np.repeat(means, sizes, axis=1)
    if kind == "fractional":
        # Around its mean, within 0 and 1, by up to half of what there is room for.
        return chances + (random.random(chances.shape) - 0.5) * np.minimum(chances, 1 - chances)
    if kind == "repeated":
        return random.binomial(4, chances) / 4
    return (random.random(chances.shape) < chances).astype(float)


def interval_coverage(values: Array, sizes: Sequence[int], share: float) -> tuple[float, float]:
    """Share of draws whose interval covers the true mean: by `interval`, and by mean ± t·standard error (G - 1)."""
    counts = np.array(sizes, dtype=float)
    n, groups = counts.sum(), np.repeat(np.arange(len(sizes)), sizes)
    found = [interval(row, groups, (0, 1)) for row in values]
    ends = np.array([(item.low, item.high) for item in found])
    means = values.mean(axis=1)
    sums = np.add.reduceat(values, np.concatenate(([0], np.cumsum(sizes)[:-1])), axis=1)
    usual = np.sqrt(((sums - means[:, None] * counts) ** 2).sum(axis=1) * len(sizes) / (len(sizes) - 1)) / n
    usual *= special.stdtrit(len(sizes) - 1, 0.975)
    covered = (ends[:, 0] <= share + 1e-12) & (share - 1e-12 <= ends[:, 1])
    return float(covered.mean()), float((abs(means - share) <= usual).mean())


def false_passes(wins: float, losses: float, n: int, size: int, draws: int, random: np.random.Generator) -> float:
    """How often `paired` says that a run is no worse than it truly is: the bound lies above the true difference.

    Groups of `size` samples are won, lost or tied as a whole.
    """
    outcome = random.random((draws, n // size))
    d = np.repeat((outcome < wins).astype(float) - (outcome > 1 - losses), size, axis=1)
    bounds = [paired(row, np.zeros(n), np.arange(n) // size, (-1, 1)).lower_one_sided for row in d]
    return float(np.mean([bound is not None and bound > wins - losses + 1e-12 for bound in bounds]))
