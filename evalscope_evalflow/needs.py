"""What of a model's part of a task is left to do: datasets to be asked, and datasets to be judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from evalscope_evalflow import failures, fingerprint, ledger
from evalscope_evalflow.backends import Backend, load_backend
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.task import Task


@dataclass(frozen=True)
class Needs:
    """What is left to do.

    Attributes:
        infer: datasets with samples that have no answer, but may get one.
        judge: datasets without a report on all their answers, judged as the task says.
        rejudge: those of them whose verdicts are another judge's.
    """

    infer: list[str] = field(default_factory=list)
    judge: list[str] = field(default_factory=list)
    rejudge: list[str] = field(default_factory=list)

    @property
    def phases(self) -> list[str]:
        """The worker's phases, in their order."""
        return [name for name, datasets in (("infer", self.infer), ("judge", self.judge)) if datasets]


def needs(task: Task, model: ModelConfig) -> Needs:
    """What of a model's part is left to do in the task's mode; only files are read.

    With `reuse: false` everything is.
    """
    mode = task.flow.mode
    if not task.flow.reuse and mode != "judge":
        return Needs(list(task.datasets), list(task.datasets) if mode == "all" else [])
    folder = task.folder(model)
    backend = load_backend(task.flow.backend)
    cells = ledger.read(folder)
    judge = fingerprint.verdicts(task)
    found = Needs()
    for dataset in task.datasets:
        cell = cells.get(dataset, ledger.Cell())
        asks = mode != "judge" and not all_answered(task, model, backend, dataset, cell)
        if asks:
            found.infer.append(dataset)
        if mode == "infer":
            continue
        if cell.verdicts is not None and cell.verdicts != judge:
            found.rejudge.append(dataset)
        if asks or dataset in found.rejudge or not _judged(task, model, backend, dataset, cell):
            found.judge.append(dataset)
    return found


def all_answered(task: Task, model: ModelConfig, backend: Backend, dataset: str, cell: ledger.Cell) -> bool:
    """Whether every answer that can be had is saved."""
    if cell.requested is None:
        return False
    missing = cell.requested - backend.answers(task, model, dataset)
    if missing <= 0:
        return True
    for_good = [item for item in backend.failures(task, model, dataset) if not item.transient]
    return missing <= len(for_good) and cell.cause == failures.cause(task, model)


def _judged(task: Task, model: ModelConfig, backend: Backend, dataset: str, cell: ledger.Cell) -> bool:
    """Whether a report stands on all that is answered."""
    if cell.report is None:
        return False
    result = next(item for item in backend.results(task, model, {}) if item.dataset == dataset)
    if result.report is None or result.report.stat().st_mtime_ns != cell.report:
        return False
    if result.fallbacks:
        return False
    answers = backend.answers(task, model, dataset)
    return min(result.succeeded, backend.verdicts(task, model, dataset)) >= answers


def check_saved(task: Task, model: ModelConfig) -> Iterator[Problem]:
    """Whether what the run folder holds may be gone on from."""
    folder = task.folder(model)
    if not task.flow.reuse:
        return
    cells = ledger.read(folder)
    for dataset in task.datasets:
        saved = cells.get(dataset, ledger.Cell()).predictions
        if saved is None or not load_backend(task.flow.backend).answers(task, model, dataset):
            continue
        changed = fingerprint.differences(saved, fingerprint.predictions(task, model, dataset))
        if changed:
            yield Problem(
                "work_dir",
                f"{folder} holds {model.name}'s answers on {dataset} to another task: {'; '.join(changed)}",
                "Choose another work_dir, or set `reuse: false`: it puts them aside, and starts afresh.",
            )


def check_there_is_something_to_judge(task: Task, model: ModelConfig) -> Iterator[Problem]:
    """In mode `judge`: whether there are answers."""
    try:
        backend = load_backend(task.flow.backend)
    except ConfigError:
        return  # said elsewhere
    empty = [dataset for dataset in task.datasets if not backend.answers(task, model, dataset)]
    if empty:
        yield Problem(
            "evalflow.mode",
            f"there is nothing to judge: {task.folder(model)} holds no answers of {model.name} on {', '.join(empty)}",
            "Run it with `mode: infer` (or `all`) first, with the same work_dir.",
        )
