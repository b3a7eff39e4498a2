"""Whether the saved answers of a run folder belong to a task: what differs, and what of that is accepted or unknown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from evalscope_evalflow.backends import Saved
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.setting_effects import ACCEPTABLE
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import Problem
from evalscope_evalflow.run import fingerprints
from evalscope_evalflow.run.fact_differences import Difference


@dataclass(frozen=True)
class SavedIdentity:
    """The answers of one dataset against the task.

    Attributes:
        dataset: its name.
        refused: differences that the user has not accepted.
        accepted: those that the user has.
        unknown: names of what cannot be told, and counts as the same.
    """

    dataset: str
    refused: list[Difference] = field(default_factory=list)
    accepted: list[Difference] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def identities(task: Task, model: ModelConfig, saved: Saved) -> list[SavedIdentity]:
    """The datasets of a task that have saved answers, each against the task; none with `reuse: false`.

    Args:
        task: the whole task.
        model: one of its models.
        saved: what the model's run folder holds.
    """
    if not task.flow.reuse:
        return []
    known = {dataset: saved.cell(dataset).predictions for dataset in task.datasets}
    known = {dataset: facts for dataset, facts in known.items() if facts is not None and saved.answers(dataset)}
    now = fingerprints.predictions_on(task, model, known) if known else {}
    found = []
    for dataset, facts in known.items():
        compared = fingerprints.compare_predictions(
            facts or {}, now[dataset], fingerprints.dataset_defaults(task, dataset)
        )
        free = saved.may_differ(dataset)  # such as another limit, as rows are told apart
        differences = [item for item in compared.differences if item.name not in free]
        refused = [item for item in differences if not item.accepted_by(task.flow.accepted)]
        accepted = [item for item in differences if item not in refused]
        found.append(SavedIdentity(dataset, refused, accepted, compared.unknown))
    return found


def settle(task: Task, model: ModelConfig, saved: Saved) -> dict[str, dict[str, Any]]:
    """What a run writes down of saved answers before it uses them, as fields of cells, by dataset.

    Accepted differences stay beside the scores. What was unknown counts, from now on, as it is today, and so is
    reported once.

    Args:
        task: the task, of which nothing is refused.
        model: one of its models.
        saved: what the model's run folder holds.
    """
    changes: dict[str, dict[str, Any]] = {}
    for item in identities(task, model, saved):
        cell = saved.cell(item.dataset)
        fields: dict[str, Any] = {}
        if item.accepted:
            texts = [*(cell.accepted or ()), *(difference.text for difference in item.accepted)]
            fields["accepted"] = list(dict.fromkeys(texts))
        elif cell.accepted and not cell.mixed:
            fields["accepted"] = None
        if item.unknown and task.flow.mode != "judge":  # which tells nothing of what the engine was
            defaults = fingerprints.dataset_defaults(task, item.dataset)
            now = fingerprints.predictions(task, model, item.dataset)
            fields["predictions"] = fingerprints.completed(cell.predictions or {}, now, item.unknown, defaults)
            fields["assumed"] = sorted({*(cell.assumed or ()), *item.unknown})
            judge = fingerprints.verdicts(task, item.dataset)
            if cell.verdicts is not None and fingerprints.same_verdicts(
                cell.verdicts, judge, cell.predictions, defaults
            ):
                fields["verdicts"] = judge  # 0.1 had a part of it among the answers' facts
        if fields:
            changes[item.dataset] = fields
    return changes


def refusals(saved: Saved, found: Iterable[SavedIdentity]) -> Iterator[Problem]:
    """A problem for each group of datasets whose answers were made by another task."""
    changes: dict[str, list[str]] = {}  # mostly the same for all datasets
    names: dict[str, list[str]] = {}
    for item in found:
        if item.refused:
            change = "; ".join(difference.text for difference in item.refused)
            changes.setdefault(change, []).append(item.dataset)
            names[change] = list(dict.fromkeys(difference.to_accept for difference in item.refused))
    for change, datasets in changes.items():
        todo = "Choose another work_dir, or set `reuse: false`: it archives them and starts again."
        if {name.partition(".")[0] for name in names[change]} <= set(ACCEPTABLE):
            accepting = f"`reuse: {{accept: [{', '.join(names[change])}]}}`"
            flag = f"--reuse_accept {' '.join(names[change])}"
            todo += f" To go on with them all the same, set {accepting} ({flag}): it is noted beside the scores."
        yield Problem(
            "work_dir",
            f"{saved.folder} holds {saved.model.name}'s answers on {', '.join(datasets)} to another task: {change}",
            todo,
        )


def notes(saved: Saved, found: Iterable[SavedIdentity]) -> Iterator[str]:
    """What is no obstacle, but should be known: accepted differences, and what nobody has written down."""
    unknown: dict[tuple[str, ...], list[str]] = {}
    for item in found:
        if item.accepted:
            text = "; ".join(difference.text for difference in item.accepted)
            yield f"{saved.model.name} / {item.dataset}: saved answers are used, as accepted, although {text}"
        if item.unknown:
            unknown.setdefault(tuple(item.unknown), []).append(item.dataset)
    for names, datasets in unknown.items():
        yield (
            f"{saved.folder}: with which {', '.join(names)} {saved.model.name}'s answers on {', '.join(datasets)} were "
            "made was not written down, or cannot be compared here; they count as made with this task's"
        )
