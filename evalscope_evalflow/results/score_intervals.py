"""Confidence intervals of headline scores, from the scores of single samples. Imports neither pandas nor EvalScope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from evalscope_evalflow.backends import DatasetResult
from evalscope_evalflow.backends.sample import SCORED
from evalscope_evalflow.results import sample_cache
from evalscope_evalflow.results.metric_scale import metric_scale
from evalscope_evalflow.results.question_scores import of_question, question_scores
from evalscope_evalflow.results.run_folders import RunFolder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalscope_evalflow.results.statistics.intervals import Interval

ROUNDED = 1.01e-4  # reports hold scores with four decimals


def with_intervals(run: RunFolder, results: Sequence[DatasetResult]) -> list[DatasetResult]:
    """Results with the intervals of their headline scores; the cache of samples is written on the way.

    Args:
        run: the run folder, whose files are as the run has left them.
        results: the run's.
    """
    found = intervals(run, {item.dataset: item.score.value for item in results})
    return [_with(item, found.get(item.dataset)) for item in results]


def _with(result: DatasetResult, found: Interval | None) -> DatasetResult:
    """A result with its interval, if it has one with two ends."""
    if found is None or found.low is None or found.high is None:
        return result
    return replace(result, interval=(found.low, found.high), n_groups=found.groups, few_groups=found.few_groups)


def intervals(run: RunFolder, scores: dict[str, float | None]) -> dict[str, Interval]:
    """The intervals of headline scores, by dataset.

    There is none where the score is no mean over samples or, as pass@k, over questions: a score by group, or one over a
    whole corpus. Samples that the score does not cover, as the judge gave no verdict on them, are not in it either.

    Args:
        run: the run folder.
        scores: the headline scores by dataset.
    """
    import numpy as np

    from evalscope_evalflow.results.statistics.intervals import interval

    names = ("dataset", "state", "metric", "question", "group")
    table = sample_cache.read_table(run, [*names, "score"])
    texts = {name: np.array(table[name].to_pylist(), dtype=object) for name in names}
    of_samples = table["score"].to_numpy()
    found = {}
    for dataset, score in scores.items():
        chosen = (texts["dataset"] == dataset) & (texts["state"] == SCORED) & np.isfinite(of_samples)
        if score is None or not chosen.any():
            continue
        values, metric = of_samples[chosen], str(texts["metric"][chosen][0])
        if of_question(metric):
            values = question_scores(metric, values, _numbered(texts["question"][chosen]))
        counted = np.isfinite(values)
        if not counted.any() or abs(values[counted].mean() - score) > ROUNDED:
            continue
        groups = _numbered(texts["group"][chosen])[counted]
        found[dataset] = interval(values[counted], groups, metric_scale(run, dataset).range_of(values[counted]))
    return found


def _numbered(texts: NDArray[np.object_]) -> NDArray[np.int64]:
    """For each text its number among the different ones, from 0."""
    import numpy as np

    numbers: NDArray[np.int64] = np.unique(texts.astype(str), return_inverse=True)[1]
    return numbers
