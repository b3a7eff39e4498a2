"""How often the statistics of comparisons and intervals are right, by simulation with fixed seeds.

    python benchmarks/score_statistics.py [--draws 10000]

It prints, as Markdown, false alarms of `paired` beside simpler tests and those of a family of 60 comparisons, how
often intervals cover the true score, how often the bound of non-inferiority passes a run that is worse, and power
against what the power table promises. A figure outside its limits has a "!", and then the exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time

import numpy as np
from simulated_intervals import clustered_scores, exact_coverage, false_passes, interval_coverage
from simulated_scores import Array, Setting, p_values, verdicts

from evalscope_evalflow.results.statistics import power, smallest_difference

SEED = 14
EFFECTS = (0.0, 0.5, 2.0)
KINDS = ("binary", "fractional", "repeated")
SIZES: dict[str, tuple[int, ...]] = {
    "5 of 40": (40,) * 5,
    "5, 5, 5, 5, 180": (5, 5, 5, 5, 180),
    "9 of 1, one of 100": (1,) * 9 + (100,),
    "99 of 1, one of 100": (1,) * 99 + (100,),
    "50 of 1, two of 50": (1,) * 50 + (50,) * 2,
    "20 of 1, one of 30": (1,) * 20 + (30,),
    "6 of 10": (10,) * 6,
    "8 of 20": (20,) * 8,
    "10, 20, … 80": tuple(range(10, 90, 10)),
    "9 of 1": (1,) * 9,
    "10 of 20": (20,) * 10,
    "20 of 1": (1,) * 20,
    "20 of 10": (10,) * 20,
    "50 of 4": (4,) * 50,
    "100 of 1": (1,) * 100,
    "100 of 5": (5,) * 100,
    "1, 2, … 20": tuple(range(1, 21)),
    "40 of 1, six of 20": (1,) * 40 + (20,) * 6,
    "30 of 2, three of 20": (2,) * 30 + (20,) * 3,
    "90 of 1, ten of 10": (1,) * 90 + (10,) * 10,
    "99 of 1, one of 35": (1,) * 99 + (35,),
}
INTERVAL_SIZES = (
    "10 of 20",
    "20 of 10",
    "50 of 4",
    "100 of 5",
    "1, 2, … 20",
    "40 of 1, six of 20",
    "99 of 1, one of 35",
)


class Limits:
    """Counts the figures outside their limits."""

    def __init__(self) -> None:
        self.missed = 0

    def percent(self, share: float, low: float = 0.0, high: float = 100.0, draws: int | None = None) -> str:
        """A share in percent, marked where it is outside the limits, in percent; few draws have more room."""
        figure = 100 * share
        room = 200 * (0.05 * 0.95 / draws) ** 0.5 if draws and draws < 10_000 else 0
        missed = not low - room <= figure <= high + room
        self.missed += missed
        return f"{figure:.1f}{' !' if missed else ''}"


def main() -> None:
    args = parse()
    begin, limits = time.perf_counter(), Limits()
    families = false_alarms(args.draws, limits)
    family_wise(families, args.draws, limits)
    single_intervals(limits)
    clustered_intervals(args.draws // 10, limits)
    non_inferiority(args.draws // 5, limits)
    power_of_the_table(args.draws, limits)
    print(f"\n{args.draws:,} draws, {time.perf_counter() - begin:.0f} s; outside their limits: {limits.missed}")
    sys.exit(1 if limits.missed else 0)


def false_alarms(draws: int, limits: Limits) -> list[Array]:
    """Two models that do not differ; returns the p values of all decidable settings."""
    heading("False alarms in %, at a nominal 5 %", "groups", "effective", "effect", "scores", "differ in", "EvalFlow")
    random, families = np.random.default_rng(SEED), []
    for (name, sizes), effect, kind in itertools.product(SIZES.items(), EFFECTS, KINDS):
        setting = Setting(sizes, effect, kind)
        groups = setting.effective_groups
        if groups < 6 and kind == "repeated":
            continue
        # Without a verdict, there is nothing of ours to count.
        found = verdicts(setting, draws if groups >= 6 else draws // 10, random)
        discordant = found.discordant.mean()
        if np.isnan(found.ours).all():
            ours = "too few"
        else:
            families.append(found.ours)
            low = 3.0 if groups >= 10 - 1e-9 and discordant >= 20 else 0.0
            ours = limits.percent((found.ours < 0.05).mean(), low, 6.5 if groups >= 10 - 1e-9 else 5.0, draws)
        simpler = [found.naive, found.mcnemar, found.clustered]
        row(
            name, f"{groups:.1f}", effect, kind, f"{discordant:.0f}", ours,
            *("–" if p is None else f"{100 * (p < 0.05).mean():.1f}" for p in simpler),
        )  # fmt: skip
    return families


def family_wise(families: list[Array], draws: int, limits: Limits) -> None:
    """At least one mark among 60 comparisons without a difference."""
    heading("At least one false mark among 60 comparisons, in %", "family", "Holm", "no correction")
    most = 100 * (0.05 + 2 * (0.05 * 0.95 / draws) ** 0.5)
    independent = np.array(families[:: max(1, len(families) // 60)][:60])
    size = len(independent)
    lowest = independent.min(axis=0)
    none = f"{100 * (lowest < 0.05).mean():.1f}"
    row(f"{size} settings of the table above", limits.percent((lowest * size < 0.05).mean(), 0, most), none)
    random, marks = np.random.default_rng(SEED + 1), np.zeros((draws, 2), dtype=bool)
    for draw in range(draws):
        logits = 0.8 + 1.5 * random.standard_normal(200, dtype=np.float32)
        right = (random.random((61, 200), dtype=np.float32) < 1 / (1 + np.exp(-logits))).astype(float)
        p = p_values(right[1:] - right[0], np.ones(200))[0].min()
        marks[draw] = p * 60 < 0.05, p < 0.05
    row(
        "60 models against one baseline, 200 samples",
        limits.percent(marks[:, 0].mean(), 0, most),
        f"{100 * marks[:, 1].mean():.1f}",
    )


def single_intervals(limits: Limits) -> None:
    """0/1 scores with one sample a group: exact."""
    heading(
        "Coverage of the interval of 0/1 scores in %, exact, at shares from 0.05 to 0.95", "n", "mean", "from", "to"
    )
    for n, least, most in (
        (20, 91, 100),
        (50, 92.5, 100),
        (100, 92.5, 100),
        (200, 93, 97),
        (500, 93, 97),
        (1000, 93, 97),
    ):
        covered = exact_coverage(n)
        lowest, highest = limits.percent(covered.min(), least, most), limits.percent(covered.max(), least, most)
        row(n, limits.percent(covered.mean(), 94, 96.5), lowest, highest)


def clustered_intervals(draws: int, limits: Limits) -> None:
    """Groups, repeats, fractional scores: the lowest coverage over two true scores."""
    title = f"Lowest coverage of intervals of true scores 0.05 and 0.7, in % ({draws:,} draws)"
    heading(title, "groups", "scores", "correlation within a group", "EvalFlow", "mean ± t·standard error")
    random = np.random.default_rng(SEED + 2)
    for name, kind, alike in itertools.product(INTERVAL_SIZES, KINDS, (0.02, 0.2, 0.8)):
        sizes = SIZES[name]
        covered = [
            interval_coverage(clustered_scores(sizes, share, alike, kind, draws, random), sizes, share)
            for share in (0.05, 0.7)
        ]
        ours, usual = (min(figures) for figures in zip(*covered, strict=True))
        row(name, kind, alike, limits.percent(ours, 93 - 200 * (0.07 * 0.93 / draws) ** 0.5), f"{100 * usual:.1f}")


def non_inferiority(draws: int, limits: Limits) -> None:
    """The bound lies above the true difference in at most 5 %."""
    title = f"Runs that pass as no worse than they are, in % of {draws:,} draws (5 at most)"
    heading(title, "samples", "in groups of", "won", "lost", "passed")
    random, most = np.random.default_rng(SEED + 3), 5 + 200 * (0.05 * 0.95 / draws) ** 0.5
    for n, size in ((20, 1), (200, 1), (1000, 1), (300, 5), (64, 8)):
        for won, lost in ((0, 0.02), (0, 0.1), (0.05, 0.1), (0.3, 0.3)):
            row(n, size, won, lost, limits.percent(false_passes(won, lost, n, size, draws, random), 0, most))


def power_of_the_table(draws: int, limits: Limits) -> None:
    """Draws with the smallest difference that the table says would be shown in 80 %."""
    heading("Power at the difference that the power table names, in %", "data", "difference", "promised", "found")
    random, off = np.random.default_rng(SEED + 4), 200 * (0.8 * 0.2 / draws) ** 0.5
    for groups, size in ((10, 1), (30, 5), (100, 1), (300, 2)):
        # Normal group effects and normal samples, whose spread is known.
        spread = (0.5**2 + 1 / size) ** 0.5
        exact = needed(groups, spread)
        d = exact + 0.5 * random.standard_normal((draws, groups)) + random.standard_normal((draws, groups)) / size**0.5
        shown = (p_values(d * size, np.full(groups, float(size)))[0] < 0.05).mean()
        row(f"{groups} groups of {size}, normal", f"{exact:.3f}", "80.0", limits.percent(shown, 80 - off, 80 + off))
    for n, differ in ((100, 0.5), (200, 0.3), (500, 0.2), (1000, 0.1), (1000, 0.02)):
        a = np.repeat([1.0, 0.0, 1.0], [round(n * differ / 2), round(n * differ / 2), n - 2 * round(n * differ / 2)])
        found = smallest_difference(a, np.where(np.arange(n) < n * differ, 1 - a, a), np.arange(n))
        assert found is not None
        won = (max(differ, found) + found) / 2
        draw = random.random((draws, n))
        d = (draw < won).astype(float) - (draw > 1 - (won - found))
        shown = (p_values(d, np.ones(n))[0] < 0.05).mean()
        # Where few differ, counts go in steps that no formula has: then it is a promise of at least 80.
        sparse = n * differ < 30
        figure = limits.percent(shown, 80 - off, 100 if sparse else 80 + off)
        row(f"{n} samples, 0/1, {differ:.0%} differ", f"{found:.3f}", "80 at least" if sparse else "80.0", figure)


def needed(groups: int, spread: float) -> float:
    """The difference with a power of 80 %, where groups' means have that standard deviation."""
    low, high = 0.0, 10 * spread
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, spread / groups**0.5, groups - 1) > 0.8 else (middle, high)
    return high


def heading(title: str, *columns: str) -> None:
    if columns[-1] == "EvalFlow":
        columns = (*columns, "naive z", "McNemar", "clustered t")
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def row(*cells: object) -> None:
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000, help="10000; intervals take a tenth of them")
    return parser.parse_args()


if __name__ == "__main__":
    main()
