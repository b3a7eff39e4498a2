"""The columns of exported scores, the same in CSV, JSON Lines and Parquet."""

from __future__ import annotations

from typing import Any

from evalscope_evalflow.results.score_rows import ScoreRow

# Stable: a new column is added at the end, and none is renamed or removed. An empty field means: not known, or none.
COLUMNS = (
    "model",  # the model's name
    "dataset",  # the dataset's name
    "metric",  # the metric's name; empty where there is no report
    "headline",  # true for the metric that the table shows
    "score",  # in CSV with four decimals, as in the table; empty where there is none that could be trusted
    "complete",  # true where the score covers every sample, each judged as it should be
    "why_not",  # why the score is missing or incomplete
    "requested",  # samples that were to be answered
    "answered",  # samples that were answered
    "scored",  # samples that were answered and scored
    "failed",  # samples that have no answer or no score
    "judged",  # samples with a verdict of the judge's own; empty where no judge is used
    "fallbacks",  # samples that the judge gave no usable verdict on
    "cut_off",  # answers that the limit of tokens cut off; the score covers them
    "empty",  # answers without any text; the score covers them
    "remarks",  # what stands beside the score, such as answers of two versions of the engine
    "interval_low",  # the score's 95 % confidence interval; empty where there is none
    "interval_high",
    "n_groups",  # independent groups of samples that the interval stands on
    "few_groups",  # true where these are too few for the interval to be exact
)


def values_of(row: ScoreRow) -> dict[str, Any]:
    """A row's values by their columns; texts are on one line."""
    values = {name: getattr(row, name) for name in COLUMNS}
    return values | {name: " ".join(values[name].split()) for name in ("why_not", "remarks")}
