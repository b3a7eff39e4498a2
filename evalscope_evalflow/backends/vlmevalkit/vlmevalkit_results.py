"""What VLMEvalKit has saved, by its files and by what the worker wrote down beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.base import Saved, Stamps
from evalscope_evalflow.backends.dataset_result import DatasetResult
from evalscope_evalflow.backends.missing_verdicts import MissingVerdict, reasons
from evalscope_evalflow.backends.native.native_results import metrics_of, read_json
from evalscope_evalflow.backends.native.rows_files import judge_id
from evalscope_evalflow.backends.selection import Change, change
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files, datasets_in
from evalscope_evalflow.config import ModelConfig, catalog
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.state import failures
from evalscope_evalflow.state.failures import Failure
from evalscope_evalflow.worker.content import content_of
from evalscope_evalflow.worker.kept_reports import present_path


class VLMEvalKitSaved(Saved):
    """Files of VLMEvalKit's (see worker/vlmevalkit_files.py), and reports/MODEL/DATASET.json."""

    def __init__(self, task: Task, model: ModelConfig) -> None:
        super().__init__(task, model)
        self._found: dict[str, Files] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._answers: dict[str, int] = {}

    def stamps(self) -> Stamps:
        places = ((self.report_path(dataset), self._report(dataset)) for dataset in self.task.datasets)
        return {place: path.stat().st_mtime_ns for place, path in places if path.exists()}

    def report_path(self, dataset: str) -> Path:
        return self.files(dataset).report

    def results(self, before: Stamps) -> list[DatasetResult]:
        return [self._result(dataset, before) for dataset in self.task.datasets]

    def answers(self, dataset: str) -> int:
        if dataset not in self._answers:
            files, state = self.files(dataset), self._state(dataset)
            stamp = files.stamp()
            # A file that is not as we left it, or gone, is counted by the worker alone.
            saved = int(state.get("answered") or 0) if stamp and state.get("stamp") == stamp else 0
            self._answers[dataset] = saved + len(files.read_journal())
        return self._answers[dataset]

    def verdicts(self, dataset: str) -> int:
        state = self._state(dataset)
        return int(state.get("scored") or 0) + int(state.get("left_out") or 0) if self.files(dataset).made() else 0

    def failures(self, dataset: str) -> list[Failure]:
        return _failures(dataset, self._state(dataset))

    def requested(self, dataset: str) -> int | None:
        known = self._state(dataset).get("requested")
        return known if isinstance(known, int) else super().requested(dataset)

    def change(self, dataset: str) -> Change | None:
        state, files = self._state(dataset), self.files(dataset)
        before, file = state.get("data") or {}, catalog.lmudata() / f"{dataset}.tsv"
        if before.get("seen") and file.is_file() and files.rows():
            found = file.stat()
            if before["seen"] != [found.st_size, found.st_mtime_ns] and before.get("content") != content_of(file):
                return Change.DATA
        if state.get("unpublished") and self.task.flow.verify_md5:
            return Change.DATA  # answered under `verify_md5: false`: the worker refuses it when it loads the data
        known = state.get("chosen")
        return change(known, {"limit": self.task.stock.get("limit")}) if isinstance(known, dict) else None

    def may_differ(self, dataset: str) -> frozenset[str]:
        return frozenset({"limit"} if "chosen" in self._state(dataset) else ())

    def earlier_verdicts(self, dataset: str, judge: Mapping[str, Any]) -> int:
        return len(self.files(dataset).verdicts_of(judge_id(judge)))

    def files(self, dataset: str) -> Files:
        """Those of one dataset."""
        if dataset not in self._found:
            self._found[dataset] = Files(self.folder, self.model.name, dataset, self._datasets)
        return self._found[dataset]

    @cached_property
    def _datasets(self) -> set[str]:
        """Of the task, and of others in this folder."""
        return {*self.task.datasets, *datasets_in(self.folder)}

    def _report(self, dataset: str) -> Path:
        """Where the report is, if there is one."""
        return present_path(self.folder, self.report_path(dataset))

    def _state(self, dataset: str) -> dict[str, Any]:
        if dataset not in self._states:
            self._states[dataset] = self.files(dataset).read()
        return self._states[dataset]

    def _result(self, dataset: str, before: Stamps) -> DatasetResult:
        path, report = self._report(dataset), None
        if path.exists() and before.get(self.report_path(dataset)) != path.stat().st_mtime_ns:
            report = read_json(path)
        found = path if report is not None else None
        return _result(dataset, found, report, self._state(dataset), self.answers(dataset))


def saved_result(folder: Path, model: str, dataset: str) -> DatasetResult | None:
    """What a run folder's files alone tell of a dataset; None where they hold nothing of it.

    Args:
        folder: the run folder.
        model: the model's name.
        dataset: the dataset's name.
    """
    files = Files(folder, model, dataset, {dataset, *datasets_in(folder)})
    state, came = files.read(), files.read_journal()
    path = present_path(folder, files.report)
    report = read_json(path) if path.exists() else None
    if not state and not came and report is None:
        return None
    saved = int(state.get("answered") or 0) if files.predictions.exists() else 0
    result = _result(dataset, path if report is not None else None, report, state, saved + len(came))
    return replace(result, predicted_only=report is None)


def _result(
    dataset: str, path: Path | None, report: dict[str, Any] | None, state: Mapping[str, Any], answers: int
) -> DatasetResult:
    """A result, of a dataset's report, what the worker wrote down of it, and the number of saved answers."""
    metrics = metrics_of(report or {})
    requested = int(state.get("requested") or 0)
    answered = min(requested, answers)
    found = _failures(dataset, state)
    fallbacks = state.get("fallbacks") or {}
    left_out = int(state.get("left_out") or 0)
    notes = failures.notes(found)
    said = state.get("examples") or {}
    missing = [MissingVerdict(kind, str(said.get(kind) or "")) for kind in fallbacks.values()]
    notes += reasons(missing, int(state.get("judged") or 0) + len(missing))
    if left_out:
        notes.append(f"{left_out} more are left out of the score: variants of the same question have none")
    if state.get("error"):
        notes.append(str(state["error"]))
    return DatasetResult(
        dataset, metrics, requested=requested, answered=answered,
        succeeded=int(state.get("scored") or 0) + left_out if report is not None else 0,
        failed=requested - answered, report=path, notes=notes,
        failures=failures.by_kind(found), judged=state.get("judged"), fallbacks=len(fallbacks),
        left_out=left_out if report is not None else 0,
    )  # fmt: skip


def _failures(dataset: str, state: Mapping[str, Any]) -> list[Failure]:
    return [
        Failure(
            dataset, "default", row, str(item.get("kind")), bool(item.get("transient")),
            str(item.get("message")), str(item.get("time")),
        )
        for row, item in (state.get("failed") or {}).items()
    ]  # fmt: skip
