"""Collects the results of a model's run from its folder, at the run's end or where nothing was left to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from evalscope_evalflow.backends import DatasetResult, Saved, Stamps
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.disk_errors import disk_error
from evalscope_evalflow.events.run_events import DatasetIncomplete, FailuresStand, NothingLeft, SamplesUnreadable
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.results.run_folders import RunFolder
from evalscope_evalflow.run import answer_batches
from evalscope_evalflow.run.context import Run
from evalscope_evalflow.run.resume import remaining
from evalscope_evalflow.state import failures, record
from evalscope_evalflow.worker.kept_reports import kept_path, set_aside


def collect(run: Run, before: Stamps, saved: Saved | None = None) -> list[DatasetResult]:
    """Read the results, keep what they cover in cells.json, and say which of them are incomplete.

    Args:
        run: the run.
        before: reports that were there before, and are none of this run's.
        saved: what the run folder holds, where that was looked at just now.
    """
    saved = saved or run.saved()
    results = [_place_report(saved, result) for result in _results(run, saved, before)]
    changes: dict[str, dict[str, Any]] = {}
    for result in results:
        changes[result.dataset] = {"counted": saved.counted(result.dataset)}
        if result.report is not None:
            changes[result.dataset]["report"] = result.report.stat().st_mtime_ns
    run.update_cells(changes)
    for result in results:
        _say_if_incomplete(result, saved, run.emit)
    return results


def with_samples(run: Run, results: list[DatasetResult]) -> list[DatasetResult]:
    """The results with the intervals of their scores, and the samples in the cache that comparisons read.

    Both are made of what the run has saved: a run whose samples cannot be read is finished all the same.
    """
    from evalscope_evalflow.results.score_intervals import with_intervals

    folder = RunFolder(run.folder, run.model.name, record.read(run.folder) or {})
    try:
        return with_intervals(folder, results)
    except Exception as error:
        if disk_error(error, str(run.folder)):  # they are whole, and can be read when the disk is well again
            raise
        run.emit(SamplesUnreadable(f"{type(error).__name__}: {error}"))
        return results


def finished(run: Run, saved: Saved) -> ModelResult | None:
    """The results of a model of which nothing is left to do, and whose record says so already.

    That record stays as it is, for it says how the results were made; events.jsonl has a line more.

    Args:
        run: the run.
        saved: what the run folder holds now.

    Returns:
        None where something is left to do, or to be written down.
    """
    if remaining(run.task, run.model, saved).phases:
        return None
    known = record.read(saved.folder) or {}
    results = [_with_known_interval(item, known) for item in _results(run, saved, {})]
    result = ModelResult(run.model, saved.folder, results)
    state = "complete" if result.complete else "incomplete"
    if known.get("state") != state or not _says(known.get("results"), json.loads(json.dumps(result.as_record()))):
        return None
    run.emit(NothingLeft())
    if any(item.failures for item in collect(run, {}, saved)):
        run.emit(FailuresStand())
    record.append_event(run.record_folder, NothingLeft())
    return result


def _with_known_interval(result: DatasetResult, record: Mapping[str, Any]) -> DatasetResult:
    """A result with the interval that the record has of it: a score that is the same has the same."""
    known = ((record.get("results") or {}).get(result.dataset) or {}).get("score") or {}
    if not isinstance(known.get("interval"), list) or known.get("value") != result.score.value:
        return result
    low, high = known["interval"]
    return replace(result, interval=(low, high), n_groups=known.get("n_groups"), few_groups=known.get("few_groups"))


def _says(known: Any, results: dict[str, Any]) -> bool:
    """Whether a record says all of the results that its version of EvalFlow wrote down, and nothing stands beside."""
    if not isinstance(known, dict) or known.keys() != results.keys():
        return False
    return all(
        all(_same(result.get(name), value) for name, value in known[dataset].items())
        and ("remarks" in known[dataset] or not result["remarks"])
        for dataset, result in results.items()
    )


def _same(now: Any, known: Any) -> bool:
    """Whether a value is as it was written down; of a mapping, what was written down of it."""
    if isinstance(now, dict) and isinstance(known, dict) and known.keys() < now.keys():
        return all(now[name] == value for name, value in known.items())
    return bool(now == known)


def _place_report(saved: Saved, result: DatasetResult) -> DatasetResult:
    """Keep a report outside `reports/` if there is no score, so that EvalScope's dashboard shows none either.

    Raises:
        OSError: it cannot be moved.
    """
    if result.predicted_only:
        return result
    place = saved.report_path(result.dataset)
    kept = kept_path(saved.folder, place)
    if result.score.value is not None:
        if result.report == kept:  # moved out of the way for scoring that never began
            place.parent.mkdir(parents=True, exist_ok=True)
            kept.replace(place)
            return replace(result, report=place)
        kept.unlink(missing_ok=True)
        return result
    set_aside(saved.folder, place)
    return replace(result, report=kept) if result.report == place else result


def _results(run: Run, saved: Saved, before: Stamps) -> list[DatasetResult]:
    results = saved.predicted() if run.task.flow.mode == "infer" else saved.results(before)
    return [_with_origin(saved, saved.described(result)) for result in results]


def _with_origin(saved: Saved, result: DatasetResult) -> DatasetResult:
    """The result with what has to be known of where its answers come from."""
    remarks = answer_batches.remarks(saved.cell(result.dataset), saved.answers(result.dataset))
    return replace(result, remarks=[*result.remarks, *remarks])


def _say_if_incomplete(result: DatasetResult, saved: Saved, emit: Callable[[Event], None]) -> None:
    reported = result.report is not None or result.predicted_only
    if reported and result.complete:
        return
    file = str(failures.path_in(saved.folder)) if result.failures else ""
    emit(DatasetIncomplete(result.dataset, result.requested, result.answered, reported, list(result.notes), file))
