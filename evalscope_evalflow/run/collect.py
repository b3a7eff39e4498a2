"""The results of a model's part of a task, as its run folder has them at the end, or had them all along."""

from __future__ import annotations

import json

from evalscope_evalflow.backends import DatasetResult, Saved, Stamps, load_backend
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.run.resume import needs
from evalscope_evalflow.state import cells as ledger
from evalscope_evalflow.state import failures, record


def collect(
    task: Task, model: ModelConfig, before: Stamps, reporter: Reporter, saved: Saved | None = None
) -> list[DatasetResult]:
    """Read the results, note what they stand on, and warn of each that is not whole.

    Args:
        task: it.
        model: the model.
        before: reports that were there before, and are none of this run's.
        reporter: who says what happens.
        saved: what the run folder holds, where that was looked at just now.
    """
    saved = saved or load_backend(task.flow.backend).look(task, model)
    results = saved.predicted() if task.flow.mode == "infer" else saved.results(before)
    ledger.update_all(
        saved.folder,
        {
            item.dataset: {"counted": saved.counted(item.dataset)}
            | ({} if item.report is None else {"report": item.report.stat().st_mtime_ns})
            for item in results
        },
    )
    for result in results:
        notes = "".join(f"; {note}" for note in result.notes)
        if result.failures:
            notes += f" (each of them: {failures.path_in(saved.folder)})"
        if result.report is None and not result.predicted_only:
            reporter.warn(f"{model.name}: no report for {result.dataset}{notes}")
        elif not result.complete:
            reporter.warn(
                f"{model.name}: {result.dataset} is incomplete: {result.answered} of {result.requested} answered{notes}"
            )
    return results


def finished(task: Task, model: ModelConfig, reporter: Reporter) -> ModelResult | None:
    """The results of a model of which nothing is left to do, and whose record says so already.

    That record stays as it is, for it says how the results were made; the events have a line more.

    Returns:
        None where something is left to do, or to be written down.
    """
    saved = load_backend(task.flow.backend).look(task, model)
    if needs(task, model, saved).phases:
        return None
    results = saved.predicted() if task.flow.mode == "infer" else saved.results({})
    result = ModelResult(model, saved.folder, results)
    known = record.read(saved.folder) or {}
    state = "complete" if result.complete else "incomplete"
    if known.get("state") != state or known.get("results") != json.loads(json.dumps(result.as_record())):
        return None
    reporter.say(f"{model.name}: nothing is left to do; nothing was started")
    if any(item.failures for item in collect(task, model, {}, reporter, saved)):
        reporter.warn(
            f"{model.name}: what failed for good is asked again when its cause is another, or by `reuse: false`"
        )
    record.append_event(saved.folder / record.FOLDER, "nothing is left to do")
    return result
