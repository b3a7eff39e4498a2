"""Decides which datasets still need answers or verdicts, and whether saved answers may be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from evalscope_evalflow.backends import DatasetResult, Saved, load_backend
from evalscope_evalflow.backends.selection import Change
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.events import spending
from evalscope_evalflow.run import fingerprints
from evalscope_evalflow.run.saved_identity import identities, refusals
from evalscope_evalflow.state import failures
from evalscope_evalflow.state.cells import Cell


@dataclass(frozen=True)
class Remaining:
    """What is left to do.

    Attributes:
        infer: datasets with samples that have no answer, but may get one.
        judge: datasets without a report on all their answers, judged as the task says.
        rejudge: those of them whose verdicts another judge gave.
        verdicts: those of them for which the judge, if there is one, is asked something.
        answers: number of saved answers, by dataset; empty where everything is asked again.
        permanent: samples that failed permanently and are not asked again, by dataset.
        looked_at: datasets of `infer` that have changed, or are over the budget, so that it is for the worker to find
            whether anything is asked.
        changes: how datasets differ from what is answered.
    """

    infer: list[str] = field(default_factory=list)
    judge: list[str] = field(default_factory=list)
    rejudge: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    permanent: dict[str, int] = field(default_factory=dict)
    looked_at: list[str] = field(default_factory=list)
    changes: dict[str, Change] = field(default_factory=dict)

    @property
    def phases(self) -> list[str]:
        """The worker's phases, in their order."""
        return [name for name, datasets in (("infer", self.infer), ("judge", self.judge)) if datasets]

    @property
    def may_ask_nothing(self) -> bool:
        """Whether it may turn out that every answer is there, so that no engine should be started before that."""
        return bool(self.infer) and len(self.looked_at) == len(self.infer)


def remaining(
    task: Task, model: ModelConfig, saved: Saved | None = None, judges: dict[str, dict[str, Any]] | None = None
) -> Remaining:
    """What is left to do for one model, in the task's mode. Only files are read.

    With `reuse: false` everything is left to do.

    Args:
        task: the whole task.
        model: one of its models.
        saved: what the model's run folder holds, if it was read just now; default: it is read here.
        judges: what tells each dataset's judge, where it is known already; it is filled. It is the same for all models.
    """
    judges = {} if judges is None else judges
    mode = task.flow.mode
    if not task.flow.reuse and mode != "judge":
        judged = list(task.datasets) if mode == "all" else []
        return Remaining(infer=list(task.datasets), judge=judged, verdicts=judged)
    saved = saved or load_backend(task.flow.backend).look(task, model)
    results = {} if mode == "infer" else {item.dataset: item for item in saved.results({})}
    found = Remaining(answers={dataset: saved.answers(dataset) for dataset in task.datasets})
    room = has_room(task, model)
    for dataset in task.datasets:
        cell, change = saved.cell(dataset), saved.change(dataset)
        if change is not None:
            found.changes[dataset] = change
        missing = not all_answered(task, model, saved, dataset)
        if mode != "judge":
            if missing or change is not None:
                found.infer.append(dataset)
            else:
                found.permanent[dataset] = max(0, (saved.requested(dataset) or 0) - found.answers[dataset])
            may_look = not missing and change is not None and change.may_ask_nothing
            if may_look or (dataset in found.infer and not room):
                found.looked_at.append(dataset)
        if mode == "infer":
            continue
        earlier = 0
        if cell.verdicts is not None:
            if dataset not in judges:
                judges[dataset] = fingerprints.verdicts(task, dataset)
            judge = judges[dataset]
            if not _same_judge(task, dataset, cell, judge):
                found.rejudge.append(dataset)
                earlier = saved.earlier_verdicts(dataset, judge)
        asks = missing and mode != "judge"
        anew = asks or change is not None or dataset in found.rejudge
        rescore = mode == "judge" and bool(cell.metrics_failed)
        if anew or rescore or not _judged(saved, results[dataset]):
            found.judge.append(dataset)
            there = earlier if dataset in found.rejudge else saved.verdicts(dataset)
            asks |= change in (Change.DATA, Change.MORE) or there < found.answers[dataset]
            if asks or (dataset not in found.rejudge and results[dataset].fallbacks):
                found.verdicts.append(dataset)
    return found


def asks_own_judge(task: Task, left: Remaining) -> bool:
    """Whether the judge of the section has to be deployed for what is left of a model."""
    if task.flow.judge is None or task.flow.mode == "infer":
        return False
    backend = load_backend(task.flow.backend)
    return any(backend.asks_judge(task, dataset) for dataset in left.verdicts)


def has_room(task: Task, model: ModelConfig) -> bool:
    """Whether the budget of tokens, if there is one, may hold another answer of a model."""
    tokens = task.flow.caps.tokens
    if tokens is None:
        return True
    generation = task.generation_config(model)
    max_tokens = generation.get("max_tokens") if isinstance(generation, Mapping) else None
    used = spending.read(task.folder(model) / "evalflow" / spending.FILE).tokens
    return spending.room_for_an_answer(tokens, used, max_tokens if isinstance(max_tokens, int) else None)


class Survey:
    """What is left to do for each model of a task. Each run folder is read once, when it is first asked for.

    Use one for a single pass over a task that starts nothing: a run makes it out of date.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._remaining: dict[str, Remaining] = {}
        self._judges: dict[str, dict[str, Any]] = {}

    def remaining(self, model: ModelConfig, saved: Saved | None = None) -> Remaining:
        """What is left to do for a model."""
        if model.name not in self._remaining:
            self._remaining[model.name] = remaining(self.task, model, saved, self._judges)
        return self._remaining[model.name]

    def asks(self, model: ModelConfig) -> bool:
        """Whether a model still has to be asked."""
        return "infer" in self.remaining(model).phases


def all_answered(task: Task, model: ModelConfig, saved: Saved, dataset: str) -> bool:
    """Whether every answer is saved, apart from those of samples that failed permanently."""
    cell, requested = saved.cell(dataset), saved.requested(dataset)
    if requested is None:
        return False
    missing = requested - saved.answers(dataset)
    if missing <= 0:
        return True
    permanent = [item for item in saved.failures(dataset) if item.stands]
    return missing <= len(permanent) and cell.cause == failures.cause(task, model)


def _same_judge(task: Task, dataset: str, cell: Cell, judge: Mapping[str, Any]) -> bool:
    """Whether a cell's verdicts are those of the judge, and of the way to score, that the task has now."""
    defaults = fingerprints.dataset_defaults(task, dataset)
    return fingerprints.same_verdicts(cell.verdicts or {}, judge, cell.predictions, defaults)


def _judged(saved: Saved, result: DatasetResult) -> bool:
    """Whether there is a report that covers every saved answer."""
    cell = saved.cell(result.dataset)
    if cell.report is None or result.report is None or result.report.stat().st_mtime_ns != cell.report:
        return False
    if result.fallbacks:
        return False
    return min(result.succeeded, saved.verdicts(result.dataset)) >= saved.answers(result.dataset)


def check_saved(task: Task, model: ModelConfig, saved: Saved | None = None) -> Iterator[Problem]:
    """Whether the saved answers belong to this task.

    Args:
        task: the whole task.
        model: one of its models.
        saved: what the run folder holds, if it was read just now.
    """
    saved = saved or load_backend(task.flow.backend).look(task, model)
    yield from refusals(saved, identities(task, model, saved))


def check_there_is_something_to_judge(task: Task, model: ModelConfig, saved: Saved | None = None) -> Iterator[Problem]:
    """In mode `judge`: whether there are answers. The arguments are those of `check_saved`."""
    try:
        saved = saved or load_backend(task.flow.backend).look(task, model)
    except ConfigError:
        return  # another check reports it
    empty = [dataset for dataset in task.datasets if not saved.answers(dataset)]
    if empty:
        yield Problem(
            "evalflow.mode",
            f"there is nothing to judge: {saved.folder} holds no answers of {model.name} on {', '.join(empty)}",
            "Run it with `mode: infer` (or `all`) first, with the same work_dir.",
        )
