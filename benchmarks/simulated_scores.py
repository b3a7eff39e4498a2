"""Made-up scores of two models, many draws at once, and the tests of benchmarks/score_statistics.py on them.

A question has a difficulty that both models share, and each model is better or worse at each group of questions by an
effect of its own. So the models do not differ on average, and yet groups do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from evalscope_evalflow.results.statistics import FEW_GROUPS, TOO_FEW_GROUPS, effective_groups, paired
from evalscope_evalflow.results.statistics.cluster_robust import satterthwaite_degrees
from evalscope_evalflow.results.statistics.effective_size import too_unequal
from evalscope_evalflow.results.statistics.sign_flips import all_subsets, sampled_subsets, sign_flip_p

Array = NDArray[np.float64]
BASE_LOGIT, DIFFICULTY = 0.8, 1.5
REPEATS = 4
CHUNK_VALUES = 1_000_000
CHECKED = 5
PATTERNS = 1_999


@dataclass(frozen=True)
class Setting:
    """One way to make data.

    Attributes:
        sizes: questions of each group.
        effect: standard deviation of a model's effect of a group, in logits.
        kind: "binary"; "fractional" (a judge's tenths); "repeated" (four answers to each question, averaged).
    """

    sizes: tuple[int, ...]
    effect: float
    kind: str = "binary"

    @property
    def groups(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def effective_groups(self) -> float:
        return effective_groups(np.array(self.sizes, dtype=float))


def differences(setting: Setting, draws: int, random: np.random.Generator) -> Iterator[Array]:
    """Differences of two models that do not differ, some draws at a time: an array of the shape (draws, questions)."""
    n = sum(setting.sizes)
    step = max(1, CHUNK_VALUES // n)
    for start in range(0, draws, step):
        count = min(step, draws - start)
        logits = BASE_LOGIT + DIFFICULTY * random.standard_normal((count, n), dtype=np.float32)
        one, other = (scores(setting, logits, random) for _ in range(2))
        yield one - other


def scores(setting: Setting, logits: NDArray[np.float32], random: np.random.Generator) -> Array:
    """Scores of one model."""
    effects = setting.effect * random.standard_normal((len(logits), len(setting.sizes)), dtype=np.float32)
    logits = logits + np.repeat(effects, setting.sizes, axis=1)
    if setting.kind == "fractional":
        logits += random.standard_normal(logits.shape, dtype=np.float32)
        return np.round(special.expit(logits).astype(float) * 10) / 10
    if setting.kind == "repeated":
        logits += random.standard_normal(logits.shape, dtype=np.float32)
        chances = special.expit(logits)
        right = sum((random.random(logits.shape, dtype=np.float32) < chances).astype(np.int8) for _ in range(REPEATS))
        return np.asarray(right, dtype=float) / REPEATS
    return (random.random(logits.shape, dtype=np.float32) < special.expit(logits)).astype(float)


@dataclass(frozen=True)
class Verdicts:
    """p values, one for each draw, by each test; `ours` is NaN where there is no verdict."""

    ours: Array
    discordant: NDArray[np.int64]
    naive: Array
    mcnemar: Array | None
    clustered: Array


def verdicts(setting: Setting, draws: int, random: np.random.Generator) -> Verdicts:
    """Tests all draws, and some of them by `paired` itself."""
    sizes, groups = np.array(setting.sizes, dtype=float), setting.groups
    parts = []
    for d in differences(setting, draws, random):
        sums = np.add.reduceat(d, np.concatenate(([0], np.cumsum(setting.sizes)[:-1])), axis=1)
        sums[abs(sums) < 1e-9] = 0
        ours, discordant = p_values(sums, sizes)
        check_against_paired(d, groups, ours)
        mcnemar = mcnemar_p(d) if setting.kind == "binary" else None
        parts.append(Verdicts(ours, discordant, naive_p(d), mcnemar, clustered_p(sums, sizes)))
    return Verdicts(
        ours=np.concatenate([part.ours for part in parts]),
        discordant=np.concatenate([part.discordant for part in parts]),
        naive=np.concatenate([part.naive for part in parts]),
        mcnemar=np.concatenate([part.mcnemar for part in parts]) if parts[0].mcnemar is not None else None,
        clustered=np.concatenate([part.clustered for part in parts]),
    )


def p_values(sums: Array, sizes: Array) -> tuple[Array, NDArray[np.int64]]:
    """What `paired` computes, for many draws at once."""
    discordant = np.count_nonzero(sums, axis=1)
    groups = effective_groups(sizes)
    if groups < TOO_FEW_GROUPS - 1e-12:
        return np.full(len(sums), np.nan), discordant
    if groups < FEW_GROUPS - 1e-12 or too_unequal(sizes):
        return sign_flips(sums), discordant
    means = sums.sum(axis=1) / sizes.sum()
    residuals = sums - means[:, None] * sizes
    variances = (residuals**2 / (1 - sizes / sizes.sum())).sum(axis=1) / sizes.sum() ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(satterthwaite_degrees(sizes), -abs(means) / np.sqrt(variances))
    p = np.maximum(p, 2.0 ** (1 - discordant))
    for draw in np.flatnonzero((discordant < FEW_GROUPS) | (variances == 0)):
        p[draw] = sign_flip_p(sums[draw])
    return p, discordant


def sign_flips(sums: Array) -> Array:
    """All sign patterns of up to 12 groups, or 1,999 drawn ones (`paired` draws 9,999, and none where it can count)."""
    groups = sums.shape[1]
    chosen = all_subsets(groups) if groups <= 12 else next(sampled_subsets(groups, PATTERNS))
    least = abs(sums.sum(axis=1)) - 1e-9
    beyond = [
        (abs(part @ (2 * chosen - 1).T) >= bound[:, None]).sum(axis=1)
        for part, bound in zip(np.array_split(sums, 20), np.array_split(least, 20), strict=True)
    ]
    return (1 + np.concatenate(beyond)) / (1 + len(chosen))


def check_against_paired(d: Array, groups: NDArray[np.int64], ours: Array) -> None:
    """The first draws have the p value that `paired` gives."""
    for row, p in zip(d[:CHECKED], ours[:CHECKED], strict=False):
        found = paired(row, np.zeros_like(row), groups, (-1, 1)).p
        drawn = too_unequal(np.bincount(groups).astype(float)) and groups.max() >= 12
        if not (np.isnan(p) if found is None else abs(found - p) <= (0.04 if drawn else 1e-6 * p)):
            raise SystemExit(f"paired says p = {found}, this benchmark {p}")


def naive_p(d: Array) -> Array:
    """Every sample for itself, normal distribution."""
    n = d.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        z = d.mean(axis=1) / (d.std(axis=1, ddof=1) / n**0.5)
    return 2 * special.ndtr(-abs(np.nan_to_num(z, posinf=99, neginf=-99)))


def mcnemar_p(d: Array) -> Array:
    """McNemar's exact test on samples."""
    wins, losses = (d > 0).sum(axis=1), (d < 0).sum(axis=1)
    return np.minimum(1, 2 * special.bdtr(np.minimum(wins, losses), wins + losses, 0.5))


def clustered_p(sums: Array, sizes: Array) -> Array:
    """Cluster-robust standard error with the usual factor G/(G-1), and t with G - 1 degrees of freedom."""
    groups = len(sizes)
    residuals = sums - sums.sum(axis=1, keepdims=True) / sizes.sum() * sizes
    errors = np.sqrt((residuals**2).sum(axis=1) * groups / (groups - 1)) / sizes.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        t = sums.sum(axis=1) / sizes.sum() / errors
    return 2 * special.stdtr(groups - 1, -abs(np.nan_to_num(t, posinf=99, neginf=-99)))
