"""Confidence intervals of the scores of categories and subsets, from the scores of single samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalscope_evalflow.backends.sample import SCORED
from evalscope_evalflow.results import sample_cache
from evalscope_evalflow.results.run_folders import RunFolder
from evalscope_evalflow.results.score_intervals import ROUNDED

if TYPE_CHECKING:
    from evalscope_evalflow.results.statistics.intervals import Interval


def part_intervals(run: RunFolder, parts: Sequence[tuple[str, Sequence[str], float | None]]) -> list[Interval | None]:
    """The interval of each part's score; None where the score is not the mean of the samples' scores.

    Args:
        run: the run.
        parts: of each part its dataset, the names of the subsets that it is made of, and its score.
    """
    import numpy as np
    import pandas as pd

    from evalscope_evalflow.results.statistics.intervals import interval

    samples = sample_cache.read(run, ["dataset", "subset", "group", "score", "state"])
    scored = samples[(samples["state"] == SCORED) & samples["score"].notna()]
    cells = dict(iter(scored.groupby(["dataset", "subset"], observed=True)))
    found: list[Interval | None] = []
    for dataset, subsets, score in parts:
        rows = [cells[dataset, subset] for subset in subsets if (dataset, subset) in cells]
        if score is None or not rows or len(rows) < len(subsets):
            found.append(None)
            continue
        values = np.concatenate([part["score"].to_numpy(dtype=float) for part in rows])
        if abs(values.mean() - score) > ROUNDED:
            found.append(None)
            continue
        groups = np.concatenate([part["group"].astype(str).to_numpy(dtype=object) for part in rows])
        found.append(interval(values, pd.factorize(groups)[0]))
    return found
