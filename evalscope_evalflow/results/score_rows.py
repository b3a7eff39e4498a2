"""Scores as the table and every exporter show them: one row for each model, dataset and metric."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from evalscope_evalflow.backends import DatasetResult
from evalscope_evalflow.results.outcome import FlowResult, ModelResult


@dataclass(frozen=True)
class ScoreRow:
    """One metric of one model on one dataset.

    Attributes:
        model: the model's name.
        dataset: the dataset's name.
        metric: the metric's name; empty where there is no report.
        score: the score, mostly from 0 to 1; None: there is none that could be trusted, and `why_not` says why.
        requested: samples that were to be answered; None: never counted.
        answered: samples that were answered.
        scored: samples that were answered and scored.
        failed: samples that have no answer or no score.
        judged: samples with a verdict of the judge's own; None: no judge is used.
        fallbacks: samples that the judge gave no usable verdict on.
        cut_off: answers that the limit of tokens cut off; the score covers them.
        empty: answers without any text; the score covers them.
        complete: whether the score covers every sample.
        why_not: why the score is missing or incomplete; empty where it is complete.
        remarks: what stands beside the score, such as answers of two versions of the engine; several joined by "; ".
        interval_low: lower end of the headline score's 95 % confidence interval; None: not computed, or no headline.
        interval_high: its upper end.
        n_groups: independent groups of samples that the interval is computed from.
        few_groups: whether these are so few that the interval is only rough.
        headline: whether it is the dataset's headline metric, which is the one in the table.
    """

    model: str
    dataset: str
    metric: str = ""
    score: float | None = None
    requested: int | None = None
    answered: int | None = None
    scored: int | None = None
    failed: int | None = None
    judged: int | None = None
    fallbacks: int | None = None
    cut_off: int | None = None
    empty: int | None = None
    complete: bool = False
    why_not: str = ""
    remarks: str = ""
    headline: bool = True
    interval_low: float | None = None
    interval_high: float | None = None
    n_groups: int | None = None
    few_groups: bool | None = None

    @property
    def score_text(self) -> str:
        """The score with four decimals, as in the table; empty where there is none."""
        return "" if self.score is None else f"{self.score:.4f}"


def score_rows(result: FlowResult) -> Iterator[ScoreRow]:
    """Every score of a run; a dataset without one, be it that its model failed, has a row all the same.

    Args:
        result: a finished run.
    """
    for model in result.models:
        name, seen = model.model.name, set()
        for dataset in model.datasets:
            seen.add(dataset.dataset)
            yield from rows_of(name, dataset)
        for missing in result.task.datasets:
            if missing not in seen:
                yield ScoreRow(name, missing, why_not=_first_line(model) or "no result")


def rows_of(model: str, result: DatasetResult) -> Iterator[ScoreRow]:
    """A row for each metric of a dataset, the headline metric first.

    Args:
        model: the model's name.
        result: its result on the dataset.
    """
    score = result.score
    counts: dict[str, Any] = {
        "requested": score.requested,
        "answered": score.answered,
        "scored": result.succeeded - result.left_out,
        "failed": score.failed,
        "judged": score.judged,
        "fallbacks": score.unjudged,
        "cut_off": score.cut_off,
        "empty": score.empty,
        "complete": score.complete,
        "why_not": score.why_not,
        "remarks": "; ".join(score.remarks),
    }
    low, high = score.interval or (None, None)
    interval: dict[str, Any] = {
        "interval_low": low, "interval_high": high, "n_groups": score.n_groups, "few_groups": score.few_groups,
    }  # fmt: skip
    if not result.metrics:
        yield ScoreRow(model, result.dataset, **counts)
    for number, metric in enumerate(result.metrics):
        value = result.value_of(metric)
        found = counts if number else {**counts, **interval}
        yield ScoreRow(model, result.dataset, metric.name, value, headline=not number, **found)


def _first_line(result: ModelResult) -> str:
    """What ended a model, on one line."""
    return str(result.error).splitlines()[0] if result.error is not None else ""
