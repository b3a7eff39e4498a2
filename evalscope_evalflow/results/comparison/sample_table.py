"""The scores of one run on one dataset, as arrays, and how two of them are paired.

Samples are paired by what they ask and by the right answer, the repetition, and the occurrence of equal rows. Their
number says nothing: another `limit`, another order or a changed row moves it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.backends.sample import FAILED, SCORED, UNJUDGED, UNSCORED
from evalscope_evalflow.results.question_scores import of_question, question_scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pandas import DataFrame, Series

    Keys = NDArray[np.uint64]
    Floats = NDArray[np.float64]
    Places = NDArray[np.int64]

# What is read of each sample; the texts are left where they are.
COLUMNS = (
    "dataset", "subset", "sample", "repeat", "occurrence", "group", "question", "metric", "score", "state", "judged",
)  # fmt: skip
BY_NUMBER = ("target",)  # is read as well where samples are to be paired by their number
NOT_SCORED = {FAILED: "failed", UNJUDGED: "not judged", UNSCORED: "not scored"}


@dataclass(frozen=True)
class SampleTable:
    """What one run has of one dataset.

    Attributes:
        dataset: the dataset.
        metric: the headline metric's name; empty where nothing is scored.
        keys: of each scored sample, what it is paired by.
        numbers: the same by the sample's number and right answer; None where that was not read.
        scores: of each scored sample.
        groups: of each scored sample, a small integer that those share whose scores depend on each other.
        rows: of each scored sample, its row among all samples of the run.
        states: how many samples are in each state but "scored".
        judged: whether the judge has had a say on any sample.
    """

    dataset: str
    metric: str
    keys: Keys
    numbers: Keys | None
    scores: Floats
    groups: Places
    rows: Places
    states: Mapping[str, int]
    judged: bool

    @property
    def total(self) -> int:
        """Samples in any state."""
        return len(self.keys) + sum(self.states.values())


@dataclass(frozen=True)
class Pairs:
    """Samples that two tables have both scored.

    Attributes:
        first: their places in the run's table.
        second: their places in the baseline's table, in the same order.
    """

    first: Places
    second: Places

    def __len__(self) -> int:
        return len(self.first)


def tables_of(samples: DataFrame) -> dict[str, SampleTable]:
    """A run's samples, dataset by dataset.

    Args:
        samples: a row for each sample, with COLUMNS, and perhaps BY_NUMBER.
    """
    import numpy as np
    import pandas as pd

    if samples.empty:
        return {}
    datasets, names = pd.factorize(samples["dataset"])
    scores = samples["score"].to_numpy(dtype=float)
    whole = _Arrays(
        scored=(samples["state"] == SCORED).to_numpy(dtype=bool) & np.isfinite(scores),
        scores=scores,
        keys=_keys(samples["question"], samples["repeat"], samples["occurrence"]),
        numbers=(
            _keys(samples["subset"], samples["sample"], samples["repeat"], samples["target"])
            if "target" in samples
            else None
        ),
        questions=_codes(samples["question"]),
        groups=_codes(samples["group"]),
        states=samples["state"].astype(object).to_numpy(),
        metrics=samples["metric"].astype(object).to_numpy(),
        judged=samples["judged"].notna().to_numpy(dtype=bool),
    )
    order = np.argsort(datasets, kind="stable")
    ends = np.cumsum(np.bincount(datasets, minlength=len(names)))[:-1]
    return {
        str(name): _table(str(name), whole, places) for name, places in zip(names, np.split(order, ends), strict=True)
    }


def pair(table: SampleTable, baseline: SampleTable, *, by_number: bool = False) -> Pairs:
    """The samples that both have scored.

    Args:
        table: of a run.
        baseline: of another run, on the same dataset.
        by_number: pair by number and right answer, whatever was asked.

    Raises:
        ValueError: the numbers were not read.
    """
    import numpy as np

    first, second = (table.numbers, baseline.numbers) if by_number else (table.keys, baseline.keys)
    if first is None or second is None:
        raise ValueError("samples can be paired by their number only if it was read")
    _, ours, theirs = np.intersect1d(first, second, return_indices=True)
    return Pairs(ours, theirs)


@dataclass(frozen=True)
class _Arrays:
    """Columns of all samples of a run, as arrays: taking parts of a DataFrame costs far more."""

    scored: NDArray[np.bool_]
    scores: Floats
    keys: Keys
    numbers: Keys | None
    questions: Places
    groups: Places
    states: NDArray[np.object_]
    metrics: NDArray[np.object_]
    judged: NDArray[np.bool_]


def _table(dataset: str, whole: _Arrays, places: Places) -> SampleTable:
    import numpy as np

    scored, scores = whole.scored[places], whole.scores[places]
    metric = str(whole.metrics[places[scored][0]]) if scored.any() else ""
    if of_question(metric):
        scores[scored] = question_scores(metric, scores[scored], _from_0(whole.questions[places[scored]]))
        scored = scored & np.isfinite(scores)
    known = places[scored]
    # A sample that counts as scored and has no score is one that could not be scored.
    states = Counter(UNSCORED if name == SCORED else str(name) for name in whole.states[places[~scored]])
    return SampleTable(
        dataset=dataset,
        metric=metric,
        keys=whole.keys[known],
        numbers=None if whole.numbers is None else whole.numbers[known],
        scores=scores[scored],
        groups=_from_0(whole.groups[known]),
        rows=known,
        states=states,
        judged=bool(whole.judged[places].any()),
    )


def _codes(column: Series[Any]) -> Places:
    """A small integer for each row, which rows of the same value share."""
    import numpy as np
    import pandas as pd

    return np.asarray(pd.factorize(column)[0], dtype=np.int64)


def _from_0(codes: Places) -> Places:
    """The same codes from 0 on: the statistics are fastest with small ones."""
    return codes - codes.min() if len(codes) else codes


def _keys(*columns: Series[Any]) -> Keys:
    """A number for each row that rows share if, and only if, they share all of these values.

    Of a million samples, two different ones have the same 64-bit number with a chance of 3 in 100 million.
    """
    import numpy as np
    import pandas as pd

    found: Keys = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        values = column.to_numpy() if column.dtype.kind in "iu" else column.astype(object).fillna("").to_numpy(object)
        found = (found * np.uint64(0x9E3779B97F4A7C15)) ^ (pd.util.hash_array(values) + np.uint64(1))
    return found
