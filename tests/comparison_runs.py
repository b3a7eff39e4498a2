"""Made-up runs for tests of comparisons: samples in memory, as they come from a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from evalscope_evalflow.results.comparison.chosen_runs import ChosenRun
from evalscope_evalflow.results.comparison.compare_runs import LoadedRun
from evalscope_evalflow.results.comparison.sample_table import BY_NUMBER, COLUMNS, tables_of
from evalscope_evalflow.results.metric_scale import MetricScale
from evalscope_evalflow.results.run_folders import RunFolder
from evalscope_evalflow.state.cells import Cell

METRIC = "acc"


def rows(
    scores: Sequence[float | str], dataset: str = "qa", *, repeats: int = 1, judged: bool | None = None, **same: Any
) -> list[dict[str, Any]]:
    """A row for each score; a word in place of a score is the state of a sample without one.

    Args:
        scores: one for each sample, all repeats of a question in a row.
        dataset: the dataset.
        repeats: samples of each question.
        judged: whether the judge has had a say.
        same: columns that have one value in all rows.
    """
    found = []
    for place, score in enumerate(scores):
        question, repeat = divmod(place, repeats)
        found.append({
            "dataset": dataset, "subset": "default", "sample": str(place), "repeat": repeat, "occurrence": 0,
            "group": f"default/{question}", "question": f"q{question}", "metric": METRIC,
            "score": None if isinstance(score, str) else float(score),
            "state": score if isinstance(score, str) else "scored", "judged": judged, "target": f"t{question}",
            **same,
        })  # fmt: skip
    return found


def loaded(
    label: str,
    samples: Sequence[Mapping[str, Any]],
    baseline: str | None = None,
    cells: Mapping[str, Cell] | None = None,
    lower: Sequence[str] = (),
    **record: Any,
) -> LoadedRun:
    """A run in memory.

    Args:
        label: its label, and its model's name.
        samples: as `rows` makes them.
        baseline: the label of its baseline.
        cells: what cells.json would say.
        lower: datasets by whose metric less is better.
        record: what run.json would say; a complete run, unless it has another state.
    """
    run = RunFolder(Path(f"/runs/{label}"), label, {"state": "complete", **record}, label)
    run.__dict__["cells"] = dict(cells or {})  # what the cached property would read
    frame = pd.DataFrame(list(samples), columns=[*COLUMNS, *BY_NUMBER]).astype({"score": float})
    return LoadedRun(
        ChosenRun(label, run, baseline), tables_of(frame), {name: MetricScale(lower_is_better=True) for name in lower}
    )
