"""Finished runs as pandas DataFrames: `evalscope_evalflow.load(DIR)`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.results import sample_cache
from evalscope_evalflow.results.run_folders import RunFolder, ScoreRecord, find_runs

if TYPE_CHECKING:
    import pandas

# The columns of `Results.scores`: those of scores.csv, and what is known of the run.
SCORE_COLUMNS = (
    "model", "dataset", "metric", "headline", "score", "complete", "why_not", "requested", "answered", "scored",
    "failed", "judged", "fallbacks", "cut_off", "empty", "remarks", "interval_low", "interval_high", "n_groups",
    "few_groups", "run", "state", "run_id", "ended",
)  # fmt: skip


def load(path: str | os.PathLike[str]) -> Results:
    """The results below a folder: of one run, of a sweep, or of all that were written below `outputs`.

    No task file is needed, nothing is started, and neither EvalScope nor the engine has to be installed.

    Args:
        path: the `work_dir` of a run or of a sweep, or a folder above it.

    Raises:
        ConfigError: there is no run folder, or a newer version of EvalFlow wrote it.
    """
    return Results(find_runs(path))


class Results:
    """The results of one or several runs.

    Attributes:
        runs: the run folders, in the order of their names.
    """

    def __init__(self, runs: Sequence[RunFolder]) -> None:
        self.runs = list(runs)

    @cached_property
    def scores(self) -> pandas.DataFrame:
        """A row for each model, dataset and metric, the headline metric first.

        Columns: those of scores.csv, and `run` (a name that no other run has), `state`, `run_id` and `ended` of the
        run. `score` is NaN where there is none that could be trusted, and `why_not` says why. `interval_low`
        and `interval_high` are the ends of the headline score's 95 % confidence interval; where the run did not
        compute it, as EvalFlow 0.1, it is computed now.
        """
        import pandas as pd

        frame = pd.DataFrame(list(self.rows()), columns=list(SCORE_COLUMNS))
        counts = ("requested", "answered", "scored", "failed", "judged", "fallbacks", "cut_off", "empty", "n_groups")
        types: dict[str, Any] = dict.fromkeys(counts, "Int64")
        types |= dict.fromkeys(("headline", "complete"), "bool") | {"few_groups": "boolean"}
        return frame.astype(types | dict.fromkeys(("score", "interval_low", "interval_high"), "float64"))

    @cached_property
    def samples(self) -> pandas.DataFrame:
        """A row for each answer, and for each sample that failed; docs/reference/samples.md describes the columns."""
        return sample_cache.read_all(self.runs)

    def samples_of(self, columns: Sequence[str]) -> pandas.DataFrame:
        """The same with these columns and `run` alone: much faster for many samples, as texts are not read.

        Args:
            columns: names of columns of `samples`.

        Raises:
            ConfigError: there is no such column.
        """
        return sample_cache.read_all(self.runs, columns)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of `scores` as plain values, without pandas; a value that is not there is None, or left out."""
        for run in self.runs:
            for item in run.scores.values():
                yield from _score_rows(run, item)

    def __repr__(self) -> str:
        datasets = list(dict.fromkeys(name for run in self.runs for name in run.datasets))
        return f"<Results of {len(self.runs)} runs on {', '.join(datasets) or 'no dataset'}>"


def _score_rows(run: RunFolder, item: ScoreRecord) -> Iterator[dict[str, Any]]:
    """A row for each metric; only the headline's has an interval."""
    low, high = item.interval or (None, None)
    row = {
        "model": run.model, "dataset": item.dataset, "complete": item.complete, "why_not": item.why_not,
        "requested": item.requested, "answered": item.answered, "scored": item.n, "failed": item.failed,
        "judged": item.judged, "fallbacks": item.unjudged, "cut_off": item.cut_off, "empty": item.empty,
        "remarks": "; ".join(item.remarks), "run": run.name, "state": run.state,
        "run_id": item.run_id or None, "ended": item.ended or None,
    }  # fmt: skip
    interval = {"interval_low": low, "interval_high": high, "n_groups": item.n_groups, "few_groups": item.few_groups}
    yield {**row, "metric": item.metric, "headline": True, "score": item.value, **interval}
    for name, value in item.metrics.items():
        if name != item.metric:
            yield {**row, "metric": name, "headline": False, "score": value}
