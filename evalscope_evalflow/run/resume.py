"""What of a model's part of a task is left to do: datasets to be asked, and datasets to be judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from evalscope_evalflow.backends import DatasetResult, Saved, load_backend
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.run import fingerprints as fingerprint
from evalscope_evalflow.state import failures


@dataclass(frozen=True)
class Needs:
    """What is left to do.

    Attributes:
        infer: datasets with samples that have no answer, but may get one.
        judge: datasets without a report on all their answers, judged as the task says.
        rejudge: those of them whose verdicts are another judge's.
        answers: how many are saved, by dataset; not counted where all is asked anew.
        for_good: samples without an answer that are not asked again, by dataset.
    """

    infer: list[str] = field(default_factory=list)
    judge: list[str] = field(default_factory=list)
    rejudge: list[str] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    for_good: dict[str, int] = field(default_factory=dict)

    @property
    def phases(self) -> list[str]:
        """The worker's phases, in their order."""
        return [name for name, datasets in (("infer", self.infer), ("judge", self.judge)) if datasets]


def needs(task: Task, model: ModelConfig, saved: Saved | None = None) -> Needs:
    """What of a model's part is left to do in the task's mode; only files are read.

    With `reuse: false` everything is.

    Args:
        task: it.
        model: the model.
        saved: what its run folder holds, where that was looked at just now.
    """
    mode = task.flow.mode
    if not task.flow.reuse and mode != "judge":
        return Needs(list(task.datasets), list(task.datasets) if mode == "all" else [])
    saved = saved or load_backend(task.flow.backend).look(task, model)
    judge = fingerprint.verdicts(task)
    results = {} if mode == "infer" else {item.dataset: item for item in saved.results({})}
    found = Needs(answers={dataset: saved.answers(dataset) for dataset in task.datasets})
    for dataset in task.datasets:
        cell = saved.cell(dataset)
        asks = mode != "judge" and not all_answered(task, model, saved, dataset)
        if asks:
            found.infer.append(dataset)
        elif mode != "judge":
            found.for_good[dataset] = max(0, (cell.requested or 0) - found.answers[dataset])
        if mode == "infer":
            continue
        if cell.verdicts is not None and cell.verdicts != judge:
            found.rejudge.append(dataset)
        if asks or dataset in found.rejudge or not _judged(saved, results[dataset]):
            found.judge.append(dataset)
    return found


class Survey:
    """What is left of each model of a task, looked at when it is first asked for, and once.

    For one pass over a task that starts nothing: runs change what it tells of.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._needs: dict[str, Needs] = {}

    def needs(self, model: ModelConfig, saved: Saved | None = None) -> Needs:
        """What is left of a model's part."""
        if model.name not in self._needs:
            self._needs[model.name] = needs(self.task, model, saved)
        return self._needs[model.name]

    def asks(self, model: ModelConfig) -> bool:
        """Whether a model is asked anything."""
        return "infer" in self.needs(model).phases


def all_answered(task: Task, model: ModelConfig, saved: Saved, dataset: str) -> bool:
    """Whether every answer that can be had is saved."""
    cell = saved.cell(dataset)
    if cell.requested is None:
        return False
    missing = cell.requested - saved.answers(dataset)
    if missing <= 0:
        return True
    for_good = [item for item in saved.failures(dataset) if not item.transient]
    return missing <= len(for_good) and cell.cause == failures.cause(task, model)


def _judged(saved: Saved, result: DatasetResult) -> bool:
    """Whether a report stands on all that is answered."""
    cell = saved.cell(result.dataset)
    if cell.report is None or result.report is None or result.report.stat().st_mtime_ns != cell.report:
        return False
    if result.fallbacks:
        return False
    return min(result.succeeded, saved.verdicts(result.dataset)) >= saved.answers(result.dataset)


def check_saved(task: Task, model: ModelConfig, saved: Saved | None = None) -> Iterator[Problem]:
    """Whether what the run folder holds may be gone on from; `saved`: the same, looked at just now."""
    if not task.flow.reuse:
        return
    saved = saved or load_backend(task.flow.backend).look(task, model)
    known = {dataset: saved.cell(dataset).predictions for dataset in task.datasets}
    known = {dataset: facts for dataset, facts in known.items() if facts is not None and saved.answers(dataset)}
    now = fingerprint.predictions_on(task, model, known) if known else {}
    changes: dict[str, list[str]] = {}  # mostly the same on all of them
    for dataset, facts in known.items():
        changed = fingerprint.differences(facts or {}, now[dataset])
        if changed:
            changes.setdefault("; ".join(changed), []).append(dataset)
    for change, datasets in changes.items():
        yield Problem(
            "work_dir",
            f"{saved.folder} holds {model.name}'s answers on {', '.join(datasets)} to another task: {change}",
            "Choose another work_dir, or set `reuse: false`: it puts them aside, and starts afresh.",
        )


def check_there_is_something_to_judge(task: Task, model: ModelConfig, saved: Saved | None = None) -> Iterator[Problem]:
    """In mode `judge`: whether there are answers; `saved`: what the run folder holds, looked at just now."""
    try:
        saved = saved or load_backend(task.flow.backend).look(task, model)
    except ConfigError:
        return  # said elsewhere
    empty = [dataset for dataset in task.datasets if not saved.answers(dataset)]
    if empty:
        yield Problem(
            "evalflow.mode",
            f"there is nothing to judge: {saved.folder} holds no answers of {model.name} on {', '.join(empty)}",
            "Run it with `mode: infer` (or `all`) first, with the same work_dir.",
        )
