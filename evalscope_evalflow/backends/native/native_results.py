"""What EvalScope's own backend has saved: predictions, reviews and reports of a run folder."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.backends import local_content
from evalscope_evalflow.backends.base import Saved, Stamps
from evalscope_evalflow.backends.dataset_result import DatasetResult, Metric
from evalscope_evalflow.backends.missing_verdicts import reasons
from evalscope_evalflow.backends.native.native_missing import missing_verdicts
from evalscope_evalflow.backends.native.native_verdicts import has_value, is_fallback
from evalscope_evalflow.backends.native.rows_files import SavedRows, judge_id
from evalscope_evalflow.backends.selection import CHOOSING, Change, change, chosen
from evalscope_evalflow.config import catalog
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.events import any_json
from evalscope_evalflow.events.json_lines import objects_in
from evalscope_evalflow.state import cells, failures
from evalscope_evalflow.state.failures import Failure
from evalscope_evalflow.worker.kept_reports import KEPT, REPORTS, present_path

if TYPE_CHECKING:
    from evalscope_evalflow.config import ModelConfig
    from evalscope_evalflow.config.task import Task


class NativeSaved(Saved):
    """KIND/MODEL/DATASET_SUBSET.jsonl for predictions and reviews, reports/MODEL/DATASET.json."""

    def __init__(self, task: Task, model: ModelConfig) -> None:
        super().__init__(task, model)
        self._listed: dict[str, dict[str, list[Path]]] = {}
        self._rows: dict[Path, tuple[int, int, int]] = {}
        self._sums: dict[tuple[str, str], int] = {}
        self._headers: dict[str, dict[str, Any]] = {}
        self._content: dict[str, dict[str, Any] | None] = {}

    def stamps(self) -> Stamps:
        return {place: path.stat().st_mtime_ns for place, path in self._report_files}

    def results(self, before: Stamps) -> list[DatasetResult]:
        return self._results(before) if before else list(self._all_results)

    @cached_property
    def _all_results(self) -> list[DatasetResult]:
        return self._results({})

    def _results(self, before: Stamps) -> list[DatasetResult]:
        found = {
            str(report.get("dataset_name")): (path, report)
            for place, path, report in self._reports
            if before.get(place) != path.stat().st_mtime_ns
        }
        return [self._result(dataset, found.get(dataset)) for dataset in self.task.datasets]

    def answers(self, dataset: str) -> int:
        return self._rows_of("predictions", dataset)

    def verdicts(self, dataset: str) -> int:
        return self._rows_of("reviews", dataset)

    def _rows_of(self, kind: str, dataset: str) -> int:
        """Rows of a dataset's files, as they were when they were first looked at."""
        if (kind, dataset) not in self._sums:
            self._sums[kind, dataset] = sum(self._count(path, dataset) for path in self.files(kind, dataset))
        return self._sums[kind, dataset]

    def failures(self, dataset: str) -> list[Failure]:
        return failures.standing(self.folder, self.model.name, dataset, self._noted.get(dataset, ()))

    def requested(self, dataset: str) -> int | None:
        known = self._header(dataset).get("requested")
        return known if isinstance(known, int) else super().requested(dataset)

    def change(self, dataset: str) -> Change | None:
        header = self._header(dataset)
        if not header:
            return None
        before, now = header.get("data"), self.content(dataset)
        if (before is None) != (now is None) or not local_content.same(before, now):
            return Change.DATA
        return change(header.get("chosen") or {}, chosen(self.task.stock))

    def may_differ(self, dataset: str) -> frozenset[str]:
        return frozenset((*CHOOSING, "dataset_args.local_path") if self._header(dataset) else ())

    def earlier_verdicts(self, dataset: str, judge: Mapping[str, Any]) -> int:
        return SavedRows(self.folder, dataset).count_verdicts(judge_id(judge))

    def content(self, dataset: str) -> dict[str, Any] | None:
        """What tells the content of the dataset's files; None where they are not the user's own."""
        if dataset not in self._content:
            path = local_path(self.task, dataset)
            known = self._header(dataset).get("data")
            self._content[dataset] = local_content.content(path, known) if path else None
        return self._content[dataset]

    def counted(self, dataset: str) -> dict[str, list[int]] | None:
        paths = [path for kind in ("predictions", "reviews") for path in self.files(kind, dataset)]
        for path in paths:
            self._count(path, dataset)
        return {str(path.relative_to(self.folder)): list(self._rows[path]) for path in paths} or None

    def files(self, kind: str, dataset: str) -> list[Path]:
        """The files of a dataset; a name that starts with a longer dataset's is that one's, whoever asked it."""
        if self._is_new:
            return []
        if kind not in self._listed:
            self._listed[kind] = self._list(kind)
        return self._listed[kind].get(dataset, [])

    def _list(self, kind: str) -> dict[str, list[Path]]:
        return row_files(self.folder / kind / self.model.name, self._datasets)

    @cached_property
    def _datasets(self) -> frozenset[str]:
        """Of the task, and all others that may have files in this folder."""
        names = {*self.task.datasets, *self.cells, *(path.stem for path, _ in self._report_files)}
        if not self.cells:  # EvalScope made it
            names |= catalog.native_datasets(catalog.evalscope_folder(self.task.flow.worker_env))
        return frozenset(names)

    def _header(self, dataset: str) -> dict[str, Any]:
        """What was chosen of which data when the answers were last brought in line."""
        if dataset not in self._headers:
            self._headers[dataset] = SavedRows(self.folder, dataset).header() if self._has_headers else {}
        return self._headers[dataset]

    @cached_property
    def _has_headers(self) -> bool:
        """Whether anything was written down of any dataset when its answers were last brought in line."""
        return os.path.isdir(SavedRows(self.folder, "").folder)

    @cached_property
    def _is_new(self) -> bool:
        """Whether there is no run folder yet: of a sweep's many models, most of those that wait have none."""
        return not os.path.isdir(self.folder)

    def _count(self, path: Path, dataset: str) -> int:
        """Rows of a file: as they were counted before, while it is as it was then."""
        if path not in self._rows:
            state = path.stat()  # before it is read: what is added meanwhile makes the count one of an older state
            known = (self.cell(dataset).counted or {}).get(str(path.relative_to(self.folder)))
            same = known is not None and known[:2] == [state.st_size, state.st_mtime_ns]
            self._rows[path] = (state.st_size, state.st_mtime_ns, known[2] if known and same else _rows(path))
        return self._rows[path][2]

    @cached_property
    def _report_files(self) -> list[tuple[Path, Path]]:
        """Reports: the place of each in `reports/`, and where it is. A model's name may hold slashes."""
        if self._is_new:
            return []
        reports, kept = self.folder / REPORTS, self.folder / KEPT
        places = dict.fromkeys(reports.rglob("*.json"))
        found = {place: place for place in places}
        for path in kept.rglob("*.json") if os.path.isdir(kept) else ():
            found.setdefault(reports / path.relative_to(kept), path)
        return sorted(found.items())

    @cached_property
    def _reports(self) -> list[tuple[Path, Path, dict[str, Any]]]:
        """The same, with what is in those of this model."""
        read = [(place, path, read_json(path)) for place, path in self._report_files]
        return [
            (place, path, report)
            for place, path, report in read
            if report and report.get("model_name") == self.model.name
        ]

    @cached_property
    def _noted(self) -> dict[str, list[Failure]]:
        return failures.noted(self.folder)

    def _result(self, dataset: str, found: tuple[Path, dict[str, Any]] | None) -> DatasetResult:
        answers = self.answers(dataset)
        if found:
            result = _result(dataset, *found, self.files("reviews", dataset))
        else:
            result = DatasetResult(dataset, requested=self.cell(dataset).requested or answers)
            if self._is_new:
                return result
        result = replace(result, answered=min(result.requested, answers))
        if result.report is not None and not result.failed and result.succeeded >= result.requested:
            return result  # all is there; what the file has is of another time
        why = self.failures(dataset)
        notes = [*result.notes, *failures.notes(why), *self.ended_by(dataset)]
        return replace(result, notes=notes, failures=failures.by_kind(why))


def saved_result(folder: Path, model: str, dataset: str) -> DatasetResult | None:
    """What a run folder's files alone tell of a dataset; None where they hold nothing of it.

    Args:
        folder: the run folder.
        model: the model's name.
        dataset: the benchmark.
    """
    known = cells.read(folder)
    names = frozenset({dataset, *known})
    answers, reviews = (row_files(folder / kind / model, names).get(dataset, []) for kind in ("predictions", "reviews"))
    place = present_path(folder, folder / REPORTS / model / f"{dataset}.json")
    report = read_json(place)
    if not answers and report is None:
        return None
    answered = sum(map(_rows, answers))
    cell = known.get(dataset) or cells.Cell()
    if report is not None:
        result = _result(dataset, place, report, reviews)
        return replace(result, answered=min(result.requested, answered))
    failed = failures.standing(folder, model, dataset)
    return DatasetResult(
        dataset,
        requested=cell.requested or answered,
        answered=answered,
        notes=failures.notes(failed),
        failures=failures.by_kind(failed),
        failed=len(failed),
        predicted_only=True,
    )


def row_files(folder: Path, datasets: Collection[str]) -> dict[str, list[Path]]:
    """EvalScope's files of a folder by their dataset: the longest of the names that a file begins with.

    Args:
        folder: `predictions/MODEL` or `reviews/MODEL` of a run folder; it need not exist.
        datasets: names of datasets that may have files there.
    """
    found: dict[str, list[Path]] = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if not name.endswith(".jsonl"):
            continue
        ends = [place for place, letter in enumerate(name) if letter == "_" and name[:place] in datasets]
        if ends:
            found.setdefault(name[: ends[-1]], []).append(folder / name)
    return found


def local_path(task: Task, dataset: str) -> Path | None:
    """The file or folder of the user's own that holds a dataset; None where it comes from a hub."""
    settings = (task.stock.get("dataset_args") or {}).get(dataset)
    for name in ("local_path", "dataset_id"):
        value = settings.get(name) if isinstance(settings, Mapping) else None
        if isinstance(value, (str, os.PathLike)) and value and (name == "local_path" or os.path.exists(value)):
            return user_path(value)
    return None


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none that can be read."""
    try:
        data = any_json.load_file(path)
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _result(dataset: str, path: Path, report: dict[str, Any], reviews: list[Path]) -> DatasetResult:
    metrics = metrics_of(report)
    execution = report.get("execution_summary") or {}
    largest = max((item.samples for item in metrics), default=0)
    judge = report.get("judge_summary") or {}
    judged = int(judge.get("total") or 0) if judge else None
    fallbacks, withheld = 0, 0
    if judge and judge.get("status") != "success":
        rows = [row for file in reviews for row in _fallbacks(file)]
        withheld = sum(not has_value(row) for row in rows)
        valid = int(judge.get("valid_observations") or 0)
        seen = int(judge.get("total_observations") or 0)
        tied = judge.get("status") == "degraded" and 0 < seen <= valid
        fallbacks = len(rows) or (0 if tied else max(1, seen - valid))
    notes = []
    if judged is not None and fallbacks:
        notes += reasons(missing_verdicts(reviews), judged) or [f"{fallbacks} of {judged} answers have no verdict"]
    return DatasetResult(
        dataset,
        metrics,
        requested=int(execution.get("requested") or largest),
        succeeded=int(execution.get("succeeded", largest)),
        failed=max(0, int(execution.get("errored") or 0) - withheld),
        report=path,
        notes=notes,
        judged=None if judged is None else judged - fallbacks,
        fallbacks=fallbacks,
    )


def _rows(path: Path) -> int:
    """Rows of a JSON-lines file; one that is not ended is none."""
    with path.open("rb") as file:
        return sum(line.endswith(b"\n") and line.strip() != b"" for line in file)


def _fallbacks(reviews: Path) -> list[dict[str, Any]]:
    """The rows of a review file whose score is not the judge's."""
    rows = {row.get("index"): row for row in objects_in(reviews)}
    return list(filter(is_fallback, rows.values()))


def metrics_of(report: dict[str, Any]) -> list[Metric]:
    """A report's figures, the headline first: the one that it names, or else the first that grades anything."""
    items = list(report.get("metrics") or [])
    primary = report.get("primary_metric_identity")
    items.sort(key=lambda item: (item.get("semantics") or {}).get("kind") == "diagnostic")
    return sorted((metric(item, primary) for item in items), key=lambda item: not item.primary)


def metric(item: dict[str, Any], primary: Any) -> Metric:
    """One of a report's figures; `primary` is the identity of its headline."""
    identity = item.get("identity") or {}
    dimensions = [str(value) for value in (identity.get("dimensions") or {}).values()]
    name = str(item.get("legacy_name") or identity.get("name") or item.get("name"))
    if identity.get("aggregation") not in (None, "mean"):
        dimensions.insert(0, str(identity["aggregation"]))
    score = item.get("score")
    return Metric(
        f"{name} ({', '.join(dimensions)})" if dimensions else name,
        score if score is None or math.isfinite(score) else None,  # the mean of nothing is NaN
        int(item.get("num") or 0),
        primary=primary is not None and identity == primary,
    )
