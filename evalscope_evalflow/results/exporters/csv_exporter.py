"""The exporter `csv`: `scores.csv`, one line for each model, dataset and metric."""

from __future__ import annotations

import csv
from pathlib import Path

from evalscope_evalflow.results.exporters.base import Exporter
from evalscope_evalflow.results.outcome import FlowResult
from evalscope_evalflow.results.score_rows import ScoreRow, score_rows

FILE = "scores.csv"
# Stable: a new column is added at the end, and none is renamed or removed. An empty field means: not known, or none.
COLUMNS = (
    "model",  # the model's name
    "dataset",  # the dataset's name
    "metric",  # the metric's name; empty where there is no report
    "headline",  # true for the metric that the table shows
    "score",  # with four decimals, as in the table; empty where there is none that could be trusted
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
    "interval_low",  # of the headline score's 95 % confidence interval; empty where it is not computed
    "interval_high",  # its other end
    "n_groups",  # independent groups of samples that the interval is computed from; repeats of a question are one
    "few_groups",  # true where these are so few that the interval is only rough
)


class CsvExporter(Exporter):
    """Writes `scores.csv` (UTF-8, comma-separated, with a header; quoted where needed, as in RFC 4180)."""

    name = "csv"
    interface_version = 1

    def export(self, result: FlowResult, folder: Path) -> None:
        with (folder / FILE).open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(_fields, score_rows(result)))


def _fields(row: ScoreRow) -> dict[str, str]:
    """A row's fields by their columns."""
    values = {name: getattr(row, name) for name in COLUMNS}
    values |= {"score": row.score_text, "why_not": " ".join(row.why_not.split())}
    values["remarks"] = " ".join(row.remarks.split())
    return {name: _text(value) for name, value in values.items()}


def _text(value: str | int | float | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return str(value).lower() if isinstance(value, bool) else str(value)
