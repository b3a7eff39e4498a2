"""EvalScope's own backend."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.base import Backend, Saved
from evalscope_evalflow.backends.native.native_checks import native_problems
from evalscope_evalflow.backends.native.native_results import NativeSaved
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import Problem
from evalscope_evalflow.state import cells as ledger
from evalscope_evalflow.state import failures

# EvalScope's folders, which `reuse: false` puts aside.
_FOLDERS = ("configs", "logs", "predictions", "reviews", "reports")


class Native(Backend):
    """`eval_backend: Native`."""

    name = "Native"
    worker = "evalscope_evalflow.backends.native.native_worker:Native"

    def check(self, task: Task) -> Iterable[Problem]:
        return native_problems(task)

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

    def look(self, task: Task, model: ModelConfig) -> Saved:
        return NativeSaved(task, model)

    def put_aside(self, task: Task, model: ModelConfig, kept: Path) -> bool:
        folder = task.folder(model)
        ours = [failures.path_in(folder), ledger.path_in(folder), folder / "evalflow" / "benchmarks.json"]
        return _move([*(folder / name for name in _FOLDERS), *ours], folder, kept)

    def put_verdicts_aside(self, task: Task, model: ModelConfig, dataset: str, kept: Path) -> bool:
        report = task.folder(model) / "reports" / model.name / f"{dataset}.json"
        return _move([*NativeSaved(task, model).files("reviews", dataset), report], task.folder(model), kept)


def has_predictions(folder: Path) -> bool:
    """Whether there is anything to go on from. EvalScope refuses a folder without the task it was made by."""
    snapshot = folder / "configs" / "task_config.yaml"
    return snapshot.is_file() and any(path.stat().st_size for path in (folder / "predictions").rglob("*.jsonl"))


def _move(paths: Iterable[Path], folder: Path, kept: Path) -> bool:
    """Move what there is of these files and folders, each to its place below another folder."""
    found = [path for path in paths if path.exists()]
    for path in found:
        target = kept / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(str(path), target)
    return bool(found)
