"""One run's own score on one dataset, with its interval, over all samples that it has scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalscope_evalflow.backends.sample import FAILED, UNJUDGED, UNSCORED
from evalscope_evalflow.results.comparison.comparison_data import CellScore
from evalscope_evalflow.results.metric_scale import MetricScale

if TYPE_CHECKING:
    from evalscope_evalflow.results.comparison.sample_table import SampleTable

ROUNDED = 1.01e-4  # EvalScope's reports have four decimals


def cell_score(
    label: str, table: SampleTable, requested: int | None, reported: float | None, scale: MetricScale
) -> CellScore:
    """A run's score on a dataset.

    Args:
        label: the run's label.
        table: its samples on the dataset.
        requested: samples that were to be answered; None: nobody has counted them.
        reported: the score as the run's own table has it; None: it has none.
        scale: that of its metric.
    """
    from evalscope_evalflow.results.statistics.intervals import interval

    n, states = len(table.scores), table.states
    value = float(table.scores.mean()) if n else None
    found = interval(table.scores, table.groups, scale.range_of(table.scores)) if n else None
    return CellScore(
        run=label,
        dataset=table.dataset,
        metric=table.metric,
        value=value,
        low=found.low if found else None,
        high=found.high if found else None,
        n=n,
        requested=requested,
        failed=states.get(FAILED, 0) + states.get(UNSCORED, 0),
        unjudged=states.get(UNJUDGED, 0),
        groups=found.groups if found else 0,
        few_groups=found.few_groups if found else True,
        complete=n > 0 and not states and n >= (requested or 0),
        reported=None if reported is None or value is None or abs(reported - value) <= ROUNDED else reported,
    )
