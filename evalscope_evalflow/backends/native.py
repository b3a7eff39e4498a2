"""EvalScope's own backend."""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalscope_evalflow import catalog, failures, ledger
from evalscope_evalflow.backends.base import Backend, DatasetResult, Metric, Stamps
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.errors import Problem, nearest
from evalscope_evalflow.failures import Failure
from evalscope_evalflow.task import Task
from evalscope_evalflow.worker.verdicts import is_fallback

# EvalScope's folders, which `reuse: false` puts aside.
_FOLDERS = ("configs", "logs", "predictions", "reviews", "reports")


class Native(Backend):
    """`eval_backend: Native`."""

    name = "Native"

    def check(self, task: Task) -> Iterable[Problem]:
        folder = catalog.evalscope_folder(task.flow.worker_env)
        known = sorted(catalog.native_datasets(folder))
        for dataset in task.datasets:
            if dataset not in known:
                yield Problem(
                    "datasets",
                    f"EvalScope's Native backend has no benchmark {dataset!r}",
                    f"{nearest(dataset, known)} `evalscope benchmark-info --list` shows all {len(known)}.".strip(),
                )
        yield from _dataset_args_problems(task, known)
        fields = catalog.task_fields(folder)
        for name in task.stock:
            if fields and name not in fields:
                yield Problem(name, "unknown key", f"{nearest(name, fields)} Known: {', '.join(fields)}".strip())
        yield from _generation_problems(task.stock.get("generation_config"), catalog.generation_fields(folder))
        yield from _judge_problems(task.stock.get("judge") or {}, catalog.judge_fields(folder))
        yield from _limit_problems(task.stock.get("limit"))

    def stock_task(self, task: Task, model: ModelConfig, max_num_seqs: int) -> dict[str, Any]:
        folder = task.folder(model)
        stock = {
            "eval_batch_size": max_num_seqs,
            **task.stock,
            "model": model.name,
            "model_id": model.name,
            "eval_type": "openai_api",
            "eval_backend": "Native",
            "work_dir": str(folder),
            "no_timestamp": True,
            # One bad sample must not cost the others; the report counts it, and so do we.
            "ignore_errors": True,
        }
        if not (stock.get("judge") or {}).get("models"):
            stock.pop("analysis_report", None)  # EvalScope would ask a public host to write it
        if has_predictions(folder):
            stock["use_cache"] = str(folder)
        return stock

    def stamps(self, task: Task, model: ModelConfig) -> Stamps:
        return {path: path.stat().st_mtime_ns for path in _reports(task.folder(model))}

    def results(self, task: Task, model: ModelConfig, before: Stamps) -> list[DatasetResult]:
        found = {}
        for path in _reports(task.folder(model)):
            report = _read(path)
            if report and report.get("model_name") == model.name and before.get(path) != path.stat().st_mtime_ns:
                found[str(report.get("dataset_name"))] = (path, report)
        results = []
        for dataset in task.datasets:
            result = DatasetResult(dataset)
            if dataset in found:
                result = _result(dataset, *found[dataset], _files("reviews", task, model, dataset))
            result = replace(result, answered=min(result.requested, self.answers(task, model, dataset)))
            results.append(_with_failures(result, task.folder(model), model.name))
        return results

    def answers(self, task: Task, model: ModelConfig, dataset: str) -> int:
        return sum(map(_rows, _files("predictions", task, model, dataset)))

    def verdicts(self, task: Task, model: ModelConfig, dataset: str) -> int:
        return sum(map(_rows, _files("reviews", task, model, dataset)))

    def failures(self, task: Task, model: ModelConfig, dataset: str) -> list[Failure]:
        return failures.standing(task.folder(model), model.name, dataset)

    def put_aside(self, task: Task, model: ModelConfig, kept: Path) -> bool:
        folder = task.folder(model)
        ours = [failures.path_in(folder), ledger.path_in(folder), folder / "evalflow" / "benchmarks.json"]
        return _move([*(folder / name for name in _FOLDERS), *ours], folder, kept)

    def put_verdicts_aside(self, task: Task, model: ModelConfig, dataset: str, kept: Path) -> bool:
        report = task.folder(model) / "reports" / model.name / f"{dataset}.json"
        return _move([*_files("reviews", task, model, dataset), report], task.folder(model), kept)

    def worker_task(self, task: Task, model: ModelConfig, max_num_seqs: int) -> dict[str, Any]:
        judged = bool((task.stock.get("judge") or {}).get("models"))
        told = super().worker_task(task, model, max_num_seqs)
        return {**told, "judge_batch_size": task.flow.judge_max_num_seqs if judged else None}


def _dataset_args_problems(task: Task, known: list[str]) -> Iterable[Problem]:
    for name, settings in (task.stock.get("dataset_args") or {}).items():
        where = f"dataset_args.{name}"
        if name not in task.datasets:
            # Settings of a benchmark that is left out today do no harm; a misspelt one would be ignored in silence.
            if name not in known:
                yield Problem(where, "EvalScope has no such benchmark", nearest(name, [*task.datasets, *known]))
            continue
        path = settings.get("local_path") if isinstance(settings, Mapping) else None
        if path and not Path(path).expanduser().exists():
            yield Problem(f"{where}.local_path", f"{path} does not exist", "Give the folder that holds its files.")


def _generation_problems(settings: Any, known: tuple[str, ...]) -> Iterable[Problem]:
    if settings is None or isinstance(settings, str) or not known:  # a string is parsed by EvalScope
        return
    if not isinstance(settings, Mapping):
        yield Problem("generation_config", "is no mapping", "Write it as generation_config: {max_tokens: 512}.")
        return
    for name in settings:
        if name not in known:
            yield Problem(
                f"generation_config.{name}",
                "EvalScope would ignore it",
                f"{nearest(str(name), known)} What only the API knows goes into `extra_body`.".strip(),
            )


def _judge_problems(judge: Mapping[str, Any], known: Mapping[str, tuple[str, ...]]) -> Iterable[Problem]:
    """Keys of `judge` that EvalScope would refuse, when the answers are there and the engine is gone."""
    models = judge.get("models") or []
    parts = [("judge", "judge", judge), ("judge.contract", "judge.contract", judge.get("contract"))]
    listed = [models] if isinstance(models, Mapping) else models
    parts += [(f"judge.models.{number}", "judge.models", model) for number, model in enumerate(listed)]
    for where, kind, part in parts:
        for name in part if isinstance(part, Mapping) else ():
            if known[kind] and name not in known[kind]:
                todo = f"{nearest(str(name), known[kind])} Known: {', '.join(known[kind])}".strip()
                yield Problem(f"{where}.{name}", "unknown key", todo)


def _limit_problems(limit: Any) -> Iterable[Problem]:
    todo = "Give a number of samples, or a fraction of them (0.1); leave it out for all."
    if limit is None:
        return
    if isinstance(limit, bool) or not isinstance(limit, (int, float)):
        yield Problem("limit", f"{limit!r} is no number", todo)
    elif not limit > 0:
        yield Problem("limit", f"{limit} leaves nothing to evaluate", todo)
    elif isinstance(limit, float) and limit > 1:
        yield Problem("limit", f"{limit} is neither a whole number nor a fraction", todo)


def _reports(folder: Path) -> list[Path]:
    """A model's name may hold slashes, and so make folders."""
    return sorted((folder / "reports").rglob("*.json"))


def has_predictions(folder: Path) -> bool:
    """Whether there is anything to go on from. EvalScope refuses a folder without the task it was made by."""
    snapshot = folder / "configs" / "task_config.yaml"
    return snapshot.is_file() and any(path.stat().st_size for path in (folder / "predictions").rglob("*.jsonl"))


def _files(kind: str, task: Task, model: ModelConfig, dataset: str) -> list[Path]:
    """KIND/MODEL/DATASET_SUBSET.jsonl; a name that starts with another dataset's is that one's."""
    others = [name for name in task.datasets if name != dataset and name.startswith(f"{dataset}_")]
    return [
        path
        for path in sorted((task.folder(model) / kind / model.name).glob(f"{glob.escape(dataset)}_*.jsonl"))
        if not any(path.name.startswith(f"{name}_") for name in others)
    ]


def _move(paths: Iterable[Path], folder: Path, kept: Path) -> bool:
    """Move what there is of these files and folders, each to its place below another folder."""
    found = [path for path in paths if path.exists()]
    for path in found:
        target = kept / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(str(path), target)
    return bool(found)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _result(dataset: str, path: Path, report: dict[str, Any], reviews: list[Path]) -> DatasetResult:
    metrics = [_metric(item, report.get("primary_metric_identity")) for item in report.get("metrics") or []]
    metrics.sort(key=lambda metric: not metric.primary)
    execution = report.get("execution_summary") or {}
    largest = max((metric.samples for metric in metrics), default=0)
    judge = report.get("judge_summary") or {}
    judged = int(judge.get("total") or 0) if judge else None
    fallbacks = 0
    if judge and judge.get("status") != "success":
        seen = int(judge.get("total_observations") or 0) - int(judge.get("valid_observations") or 0)
        fallbacks = sum(map(_fallbacks, reviews)) or max(1, seen)
    notes = []
    if judged is not None and judge.get("status") != "success":
        notes.append(f"judge {judge.get('status')}: {judged - fallbacks} of {judged} verdicts are its own")
    return DatasetResult(
        dataset,
        metrics,
        requested=int(execution.get("requested") or largest),
        succeeded=int(execution.get("succeeded", largest)),
        failed=int(execution.get("errored") or 0),
        report=path,
        notes=notes,
        judged=None if judged is None else judged - fallbacks,
        fallbacks=fallbacks,
    )


def _rows(path: Path) -> int:
    """Rows of a JSON-lines file; one that is not ended is none."""
    with path.open("rb") as file:
        return sum(line.endswith(b"\n") and line.strip() != b"" for line in file)


def _fallbacks(reviews: Path) -> int:
    """Samples in a review file whose score is not the judge's."""
    rows = {row.get("index"): row for row in failures.lines(reviews)}
    return sum(map(is_fallback, rows.values()))


def _with_failures(result: DatasetResult, folder: Path, model: str) -> DatasetResult:
    """A result, with why some of its samples have no answer."""
    if result.report is not None and not result.failed and result.succeeded >= result.requested:
        return result  # all is there; what the file has is of another time
    found = failures.standing(folder, model, result.dataset)
    return replace(result, notes=[*result.notes, *failures.notes(found)], failures=failures.by_kind(found))


def _metric(item: dict[str, Any], primary: Any) -> Metric:
    identity = item.get("identity") or {}
    dimensions = [str(value) for value in (identity.get("dimensions") or {}).values()]
    name = str(item.get("legacy_name") or identity.get("name") or item.get("name"))
    if identity.get("aggregation") not in (None, "mean"):
        dimensions.insert(0, str(identity["aggregation"]))
    return Metric(
        f"{name} ({', '.join(dimensions)})" if dimensions else name,
        item.get("score"),
        int(item.get("num") or 0),
        primary=primary is not None and identity == primary,
    )
