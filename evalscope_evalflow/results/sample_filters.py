"""Which samples of a run are looked at: wrong, failed, cut off, not judged. Reads Arrow tables, and needs no pandas."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from evalscope_evalflow.backends.sample import FAILED, SCORED, UNJUDGED, UNSCORED
from evalscope_evalflow.events.answers import AnswerKind
from evalscope_evalflow.results import sample_cache
from evalscope_evalflow.results.metric_scale import metric_scale
from evalscope_evalflow.results.run_folders import RunFolder

WRONG, CUT_OFF, NOT_JUDGED = "wrong", "cut_off", "not_judged"
FILTERS = (WRONG, FAILED, CUT_OFF, NOT_JUDGED)
_LIGHT = ["dataset", "score", "state", "kinds"]


@dataclass(frozen=True)
class Chosen:
    """Samples that were asked for.

    Attributes:
        rows: as many as were wanted, each a mapping with the names of `sample_cache.COLUMNS` and `run`.
        matching: how many there are in all.
        in_all: samples that were looked at.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    matching: int = 0
    in_all: int = 0


def choose_samples(
    runs: Sequence[RunFolder],
    filters: Collection[str] = (),
    datasets: Collection[str] | None = None,
    most: int | None = None,
) -> Chosen:
    """Samples of runs, run by run and dataset by dataset, in the order of their files.

    Args:
        runs: the run folders.
        filters: of `FILTERS`; samples that any of them holds for. Empty: all.
        datasets: only these; default: all.
        most: how many rows to give at most; they are spread over runs and datasets. Default: all.
    """
    places: list[list[tuple[int, int]]] = []  # of each run and dataset: the run's number and the row
    in_all = 0
    for number, run in enumerate(runs):
        light = sample_cache.read_table(run, _LIGHT)
        found: dict[str, list[tuple[int, int]]] = {}
        columns = [light[name].to_pylist() for name in _LIGHT]
        wrong = wrong_samples(run, columns[0], columns[1], columns[2])
        for row, (dataset, _, state, kinds) in enumerate(zip(*columns, strict=True)):
            if datasets is not None and dataset not in datasets:
                continue
            in_all += 1
            if not filters or any(name in filters for name in outcomes(wrong[row], state, kinds)):
                found.setdefault(dataset, []).append((number, row))
        places += found.values()
    matching = sum(map(len, places))
    wanted = {place for cell, share in zip(places, _shares(places, most), strict=True) for place in cell[:share]}
    rows = [row for number, run in enumerate(runs) for row in _rows(run, number, wanted)]
    return Chosen(rows, matching, in_all)


def wrong_samples(
    run: RunFolder, datasets: Sequence[str], scores: Sequence[float | None], states: Sequence[str]
) -> list[bool]:
    """Whether each sample was answered wrong, by the scale of its dataset's metric.

    Args:
        run: whose samples they are; all of its samples on each of the datasets are there.
        datasets: of each sample.
        scores: of each sample; None or NaN: it has none.
        states: of each sample.
    """
    scored: dict[str, list[float]] = {}
    known = [
        state == SCORED and score is not None and score == score for score, state in zip(scores, states, strict=True)
    ]
    for dataset, score, has in zip(datasets, scores, known, strict=True):
        if has and score is not None:
            scored.setdefault(dataset, []).append(score)
    scales = {dataset: metric_scale(run, dataset) for dataset in scored}
    right = {dataset: scales[dataset].right_score(found) for dataset, found in scored.items()}
    return [
        has and score is not None and scales[dataset].is_wrong(score, right[dataset])
        for dataset, score, has in zip(datasets, scores, known, strict=True)
    ]


def outcomes(wrong: bool, state: str, kinds: str) -> Iterator[str]:
    """The filters that hold for a sample.

    Args:
        wrong: whether it was answered wrong, as `wrong_samples` says.
        state: its state.
        kinds: what is unusual about its answer, joined by spaces.
    """
    if wrong:
        yield WRONG
    if state == FAILED:
        yield FAILED
    if state in (UNJUDGED, UNSCORED):
        yield NOT_JUDGED
    if AnswerKind.CUT_OFF.value in kinds.split():
        yield CUT_OFF


def _shares(places: Sequence[Sequence[Any]], most: int | None) -> list[int]:
    """How many of each to give, so that all have about the same number and what one has not is another's."""
    sizes = [len(cell) for cell in places]
    if most is None or sum(sizes) <= most:
        return sizes
    shares = [0] * len(sizes)
    left = most
    while left:
        for number, size in enumerate(sizes):
            if left and shares[number] < size:
                shares[number] += 1
                left -= 1
    return shares


def _rows(run: RunFolder, number: int, wanted: Collection[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    mine = sorted(row for of, row in wanted if of == number)
    if not mine:
        return
    table = sample_cache.read_table(run)
    # In stretches without a gap: `take` would import pandas.
    for _, stretch in groupby(enumerate(mine), lambda item: item[1] - item[0]):
        places = [row for _, row in stretch]
        for values in table.slice(places[0], len(places)).to_pylist():
            yield {"run": run.name, **values}
