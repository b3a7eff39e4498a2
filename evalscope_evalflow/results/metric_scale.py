"""The scale of a dataset's headline metric, as EvalScope's report says: which scores there are, and which is best."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from evalscope_evalflow.events import any_json
from evalscope_evalflow.results.run_folders import RunFolder

LOWER = "lower_is_better"


@dataclass(frozen=True)
class MetricScale:
    """A metric's scale.

    Attributes:
        lower_is_better: whether a lower score is the better one, as with error rates.
        value_range: lowest and highest possible score, such as (0, 10) for a judge's; None: the report does not say.
    """

    lower_is_better: bool = False
    value_range: tuple[float, float] | None = None

    def range_of(self, scores: Collection[float]) -> tuple[float, float] | None:
        """The range, where it is known and all of these scores lie in it."""
        if self.value_range is None or not len(scores):
            return None
        low, high = self.value_range
        return self.value_range if low <= min(scores) and max(scores) <= high else None

    def right_score(self, scores: Collection[float]) -> float:
        """The score of a right answer; any other one is wrong.

        It is the best of the range. Where that is not known, it is 1, or 0 where less is better; and the best of the
        scores where one is better than that.

        Args:
            scores: those of the dataset's samples.
        """
        known = self.range_of(scores)
        if self.lower_is_better:
            return known[0] if known else min([0.0, *scores])
        return known[1] if known else max([1.0, *scores])

    def is_wrong(self, score: float, right: float) -> bool:
        """Whether a score is not that of a right answer.

        Args:
            score: a sample's.
            right: what `right_score` says.
        """
        return score > right if self.lower_is_better else score < right


def metric_scale(run: RunFolder, dataset: str) -> MetricScale:
    """The scale of a dataset's headline metric; one on which more is better, where the report does not say.

    Args:
        run: a run folder.
        dataset: a dataset of its own.
    """
    path = run.folder / "reports" / run.model / f"{dataset}.json"
    try:
        report = any_json.load_file(path)
    except (OSError, ValueError):
        return MetricScale()
    semantics = _semantics(report)
    return MetricScale(semantics.get("direction") == LOWER, _range(semantics.get("value_range")))


def _range(said: Any) -> tuple[float, float] | None:
    """A range as a report has it, if it is one."""
    ends = (said.get("min"), said.get("max")) if isinstance(said, dict) else (None, None)
    low, high = (float(end) if isinstance(end, numbers.Real) else math.nan for end in ends)
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None


def _semantics(report: Any) -> dict[str, Any]:
    """What the report says of its headline metric: the one that it names, or else the first that grades anything."""
    if not isinstance(report, dict):
        return {}
    primary = report.get("primary_metric_identity")
    found: list[tuple[bool, bool, dict[str, Any]]] = []
    for item in report.get("metrics") or ():
        if isinstance(item, dict):
            said = item.get("semantics")
            semantics: dict[str, Any] = said if isinstance(said, dict) else {}
            other = primary is None or item.get("identity") != primary
            found.append((other, semantics.get("kind") == "diagnostic", semantics))
    return min(found, key=lambda item: item[:2])[2] if found else {}
