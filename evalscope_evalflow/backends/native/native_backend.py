"""EvalScope's own backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.base import Backend, Saved, move_to
from evalscope_evalflow.backends.native.native_checks import native_problems
from evalscope_evalflow.backends.native.native_results import NativeSaved
from evalscope_evalflow.config import ModelConfig, catalog
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import Problem
from evalscope_evalflow.state import answer_counts, failures
from evalscope_evalflow.state import cells as ledger
from evalscope_evalflow.worker.kept_reports import KEPT, kept_path

# EvalScope's folders, which `reuse: false` archives.
_FOLDERS = ("configs", "logs", "predictions", "reviews", "reports", KEPT)


class Native(Backend):
    """`eval_backend: Native`."""

    name = "Native"
    interface_version = 1
    worker_half = "native_worker.py:NativeWorker"

    def recognises(self, dataset: str, settings: Mapping[str, Any], worker_env: str | None) -> bool:
        return dataset in catalog.native_datasets(catalog.evalscope_folder(worker_env))

    def check(self, task: Task) -> Iterable[Problem]:
        return native_problems(task)

    def stock_task(self, task: Task, model: ModelConfig, max_num_seqs: int) -> dict[str, Any]:
        folder = task.folder(model)
        stock = {
            "eval_batch_size": max_num_seqs,
            **task.stock,
            "model": model.served_name,
            "model_id": model.name,
            "eval_type": "openai_api",
            "eval_backend": "Native",
            "work_dir": str(folder),
            "no_timestamp": True,
            # One bad sample must not cost the others; the report counts it, and so do we.
            "ignore_errors": True,
        }
        if model.generation_config:
            stock["generation_config"] = task.generation_config(model)
        if not (stock.get("judge") or {}).get("models"):
            stock.pop("analysis_report", None)  # EvalScope would ask a public host to write it
        if has_predictions(folder):
            stock["use_cache"] = str(folder)
        return stock

    def look(self, task: Task, model: ModelConfig) -> Saved:
        return NativeSaved(task, model)

    def archive(self, task: Task, model: ModelConfig, archive: Path) -> bool:
        folder = task.folder(model)
        ours = [
            failures.path_in(folder),
            answer_counts.path_in(folder),
            ledger.path_in(folder),
            folder / "evalflow" / "benchmarks.json",
        ]
        return move_to(archive, folder, [*(folder / name for name in _FOLDERS), *ours])

    def archive_verdicts(self, task: Task, model: ModelConfig, dataset: str, archive: Path) -> bool:
        folder = task.folder(model)
        saved = NativeSaved(task, model)
        report = saved.report_path(dataset)
        return move_to(archive, folder, [*saved.files("reviews", dataset), report, kept_path(folder, report)])

    def row_files(self, folder: Path) -> Iterable[Path]:
        return [path for kind in ("predictions", "reviews") for path in (folder / kind).rglob("*.jsonl")]

    def published_samples(self, task: Task, dataset: str) -> int | None:
        settings = (task.stock.get("dataset_args") or {}).get(dataset) or {}
        if settings.get("local_path"):
            return None
        return catalog.native_samples(catalog.evalscope_folder(task.flow.worker_env), dataset)


def has_predictions(folder: Path) -> bool:
    """Whether there is anything to resume. EvalScope refuses a folder without the task that it was made by."""
    snapshot = folder / "configs" / "task_config.yaml"
    return snapshot.is_file() and any(path.stat().st_size for path in (folder / "predictions").rglob("*.jsonl"))
