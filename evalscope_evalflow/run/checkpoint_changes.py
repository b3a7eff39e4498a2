"""Compares the files of a checkpoint that training may still write, so that no score is one of a torn checkpoint.

It is done for matches of a pattern: before the run, when the engine has loaded, and when the last answer has come. A
file that is deleted after it was loaded changes nothing: trainers keep only the last few checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import time
from itertools import count
from pathlib import Path

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.file_locks import locked
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import EvalFlowError
from evalscope_evalflow.run import fact_values
from evalscope_evalflow.state import cells, record

_SHOWN = 3
_KINDS = ("checkpoint", "adapter")


class CheckpointChanged(EvalFlowError):
    """The checkpoint's files are not those that they were: nothing that was answered with them counts."""


class CheckpointFiles:
    """The files of one model, as they were when it was made, against what they are later."""

    def __init__(self, model: ModelConfig, expected: str | None = None) -> None:
        """
        Args:
            model: a model; unless it is a match of a pattern, nothing is compared.
            expected: digest of the files as they have to be (`digest_of`); None: as they are now.
        """
        self._model, self._expected = model, expected
        self._before = facts_of(model) if model.pattern else {}

    def check_first(self) -> None:
        """Compare with what was expected.

        Raises:
            CheckpointChanged: they differ.
        """
        if self._expected is not None and self._model.pattern and _digest(self._before) != self._expected:
            raise CheckpointChanged(f"{self._place} has changed since it was found whole; nothing was asked")

    def check(self, when: str, *, deleted_counts: bool) -> None:
        """Compare with how they were.

        Args:
            when: what has happened meanwhile, in words.
            deleted_counts: whether a file that is gone is a change.

        Raises:
            CheckpointChanged: they differ.
        """
        if not self._model.pattern:
            return
        changes = differences(self._before, facts_of(self._model), deleted_counts=deleted_counts)
        if changes:
            more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
            raise CheckpointChanged(f"{self._place} changed {when}: {', '.join(changes[:_SHOWN])}{more}")

    @property
    def _place(self) -> str:
        return str(self._model.adapter or self._model.path)


def facts_of(model: ModelConfig) -> dict[str, str]:
    """What answers depend on of a model's files: a fingerprint of each, by kind and name, such as `adapter/x.json`."""
    found = {}
    for kind, path in zip(_KINDS, (model.path, model.adapter), strict=True):
        if path:
            try:
                facts = fact_values.checkpoint(path)
            except OSError:  # it is deleted just now
                facts = {fact_values.HUB: path}
            found.update({f"{kind}/{name}": value for name, value in facts.items()})
    return found


def digest_of(model: ModelConfig) -> str:
    """A digest of `facts_of`."""
    return _digest(facts_of(model))


def differences(before: dict[str, str], now: dict[str, str], *, deleted_counts: bool) -> list[str]:
    """Names of files that are others, each with how.

    Args:
        before: as `facts_of` gives them.
        now: the same, later.
        deleted_counts: whether a file that is gone is one of them.
    """
    gone = {f"{kind}/{fact_values.HUB}" for kind in _KINDS} & (now.keys() - before.keys())
    found = [f"{_name(name)} is new" for name in sorted(now.keys() - before.keys() - gone)]
    found += [f"{_name(name)} differs" for name in sorted(before.keys() & now.keys()) if before[name] != now[name]]
    if deleted_counts:
        found += [f"{_name(name)} is gone" for name in sorted(before.keys() - now.keys())]
    return found


def changed_since(task: Task, model: ModelConfig) -> list[str]:
    """How a checkpoint's files differ from those that the saved answers were made with.

    Files that are gone are no difference. Empty where nothing is saved.
    """
    now = facts_of(model)
    found: list[str] = []
    for cell in cells.read(task.folder(model)).values():
        before = {
            f"{kind}/{name}": str(value)
            for kind in _KINDS
            for name, value in ((cell.predictions or {}).get(kind) or {}).items()
        }
        if before:
            found += differences(before, now, deleted_counts=False)
    return list(dict.fromkeys(found))


def new_archive(record_folder: Path) -> Path:
    """A folder in a run folder's `evalflow/kept` that nothing is at, named after the time."""
    path = record_folder / "kept" / time.strftime("%Y%m%d-%H%M%S")
    paths = (path if number == 1 else path.with_name(f"{path.name}-{number}") for number in count(1))
    return next(path for path in paths if not path.exists())


def void(task: Task, model: ModelConfig, why: str) -> Path:
    """Archive all that a run folder holds of a checkpoint which is another one now; its score is shown no more.

    Args:
        task: the task.
        model: one of its models, which nobody runs now.
        why: what has changed, in words; run.json says it.

    Returns:
        The archive.

    Raises:
        Timeout: another run uses the folder.
        OSError: it cannot be moved.
    """
    folder = task.folder(model)
    with locked(folder / record.FOLDER / "run.lock", 0):
        archive = new_archive(folder / record.FOLDER)
        record.mark_void(folder, why)  # first: a score without its answers must not be left, whatever happens
        load_backend(task.flow.backend).archive(task, model, archive)
        return archive


def _digest(facts: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _name(name: str) -> str:
    return name.partition("/")[2]
