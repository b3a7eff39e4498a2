"""Scores that no record of a run has: of a run that goes on, was killed, or whose record cannot be read, by its files.

Intervals that a record lacks are computed here, too. What needs the samples imports Arrow and numpy, and not pandas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evalscope_evalflow.backends.base import described
from evalscope_evalflow.backends.sample import SCORED
from evalscope_evalflow.results.run_folders import UNKNOWN, RunFolder, ScoreRecord, result_record, score_record
from evalscope_evalflow.state import answer_counts
from evalscope_evalflow.state import cells as ledger
from evalscope_evalflow.state.record import DIED

_WHY = {
    "running": "the run has not finished",
    DIED: "the run was killed before its end",
    UNKNOWN: "no record of a finished run",
}


def unrecorded_scores(
    run: RunFolder, datasets: Sequence[str], without_interval: Mapping[str, ScoreRecord]
) -> dict[str, ScoreRecord]:
    """Scores by dataset, as far as the files of a run folder tell.

    Args:
        run: the run folder.
        datasets: those of which the record has no result.
        without_interval: scores of the record whose interval was never computed.
    """
    counts = answer_counts.read(run.folder) if datasets else {}
    found = {dataset: _from_files(run, dataset, counts) for dataset in datasets}
    unscored = [name for name, item in found.items() if item.value is None and item.answered]
    if unscored and run.mode != "infer":
        found |= _counted(run, {name: found[name] for name in unscored})
    scored = {name: item for name, item in found.items() if item.value is not None} | dict(without_interval)
    return found | (_with_intervals(run, scored) if scored else {})


def _from_files(run: RunFolder, dataset: str, counts: Mapping[str, answer_counts.AnswerCounts]) -> ScoreRecord:
    """What is there of a dataset that no finished run has written a result of."""
    cell = run.cells.get(dataset) or ledger.Cell()
    error = f"it was ended by {cell.error}" if cell.error else ""
    why = error or _WHY.get(run.state, f"the run ended as {run.state}, and wrote no result")
    result = run.load_backend().saved_result(run.folder, run.model, dataset)
    if result is None:
        return ScoreRecord(dataset, requested=cell.requested, why_not=why)
    result = described(result, counts.get(dataset) or answer_counts.AnswerCounts(), cell)
    known = score_record(dataset, result_record(result))
    reason = "; ".join(dict.fromkeys(filter(None, (why, known.why_not))))
    return replace(known, complete=False, why_not=reason, requested=known.requested or cell.requested)


def _counted(run: RunFolder, scores: Mapping[str, ScoreRecord]) -> dict[str, ScoreRecord]:
    """Scores without a report, with the number of their samples that have a score all the same."""
    from evalscope_evalflow.results import sample_cache

    table = sample_cache.read_table(run, ["dataset", "state", "judged"])
    names = table["dataset"].to_pylist()
    scored = Counter(name for name, state in zip(names, table["state"].to_pylist(), strict=True) if state == SCORED)
    verdicts = [(name, judged) for name, judged in zip(names, table["judged"].to_pylist(), strict=True)]
    judges = {name for name, judged in verdicts if judged is not None}
    judged_of = Counter(name for name, judged in verdicts if judged)
    found = {}
    for name, item in scores.items():
        if scored[name]:
            of = f"{scored[name]} of {item.requested or item.answered} samples have a score, and there is no report"
            why = "; ".join(["" if part == "not judged" else part for part in item.why_not.split("; ")]).strip("; ")
            judged = judged_of[name] if name in judges else None
            found[name] = replace(item, n=scored[name], judged=judged, why_not=f"{why}; {of}".removeprefix("; "))
    return found


def _with_intervals(run: RunFolder, scores: Mapping[str, ScoreRecord]) -> dict[str, ScoreRecord]:
    """Scores with the intervals that their samples give."""
    from evalscope_evalflow.results.score_intervals import intervals

    computed = intervals(run, {name: item.value for name, item in scores.items()})
    found = dict(scores)
    for name, item in computed.items():
        if item.low is not None and item.high is not None:
            ends = (item.low, item.high)
            found[name] = replace(scores[name], interval=ends, n_groups=item.groups, few_groups=item.few_groups)
    return found
