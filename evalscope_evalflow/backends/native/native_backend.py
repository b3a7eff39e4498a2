"""EvalScope's own backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.backends.base import Backend, Saved, move_to
from evalscope_evalflow.backends.dataset_result import DatasetResult
from evalscope_evalflow.backends.native.native_local_samples import local_samples
from evalscope_evalflow.backends.native.native_results import NativeSaved, saved_result
from evalscope_evalflow.backends.native.native_samples import native_samples, sample_files
from evalscope_evalflow.backends.native.rows_files import SavedRows, archive_verdicts, judge_id
from evalscope_evalflow.backends.sample import Sample
from evalscope_evalflow.backends.selection import chosen
from evalscope_evalflow.config import catalog
from evalscope_evalflow.errors import Problem
from evalscope_evalflow.state import answer_counts, failures
from evalscope_evalflow.state import cells as ledger
from evalscope_evalflow.worker.kept_reports import KEPT, kept_path

if TYPE_CHECKING:
    from evalscope_evalflow.config import ModelConfig
    from evalscope_evalflow.config.task import Task

# EvalScope's folders, which `reuse: false` archives.
_FOLDERS = ("configs", "logs", "predictions", "reviews", "reports", KEPT)


class Native(Backend):
    """`eval_backend: Native`."""

    name = "Native"
    interface_version = 1
    worker_half = "native_worker.py:NativeWorker"

    def recognises(self, dataset: str, settings: Mapping[str, Any], worker_env: str | None) -> bool:
        return dataset in catalog.native_datasets(catalog.evalscope_folder(worker_env))

    # What only preflight needs (pydantic, readers of data) is not imported to read what a run has left.

    def check(self, task: Task) -> Iterable[Problem]:
        from evalscope_evalflow.backends.native.native_checks import native_problems

        return native_problems(task)

    def check_data(self, task: Task, notify: Callable[[str], None]) -> Iterable[Problem]:
        from evalscope_evalflow.backends.native.native_data_checks import data_problems

        if task.stock.get("analysis_report") and not _has_judge(task.stock):
            notify("analysis_report: no judge is given to write it, so that it is left out")
        return data_problems(task, notify)

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
        if not _has_judge(stock):
            stock.pop("analysis_report", None)  # EvalScope would ask a public host to write it
        if has_predictions(folder):
            stock["use_cache"] = str(folder)
        return stock

    def worker_settings(self, task: Task, model: ModelConfig) -> dict[str, Any]:
        saved = NativeSaved(task, model)
        accepts = any(name.partition(".")[0] == "dataset_args" for name in task.flow.accepted)
        return {
            "chosen": chosen(task.stock),
            "content": {dataset: saved.content(dataset) for dataset in task.datasets},
            "judges": {dataset: judge_id(saved.cell(dataset).verdicts) for dataset in task.datasets},
            # Those whose prompts have to be as they were: another one may have been accepted.
            "answered": [] if accepts else [dataset for dataset in task.datasets if saved.answers(dataset)],
        }

    def asks_judge(self, task: Task, dataset: str) -> bool:
        strategy = (task.stock.get("judge") or {}).get("strategy") or "auto"
        if strategy != "auto":
            return bool(strategy != "rule")
        folder = catalog.evalscope_folder(task.flow.worker_env)
        policy = catalog.scoring_policy(folder, dataset)
        return policy.startswith("JUDGE") if policy else False

    def look(self, task: Task, model: ModelConfig) -> Saved:
        return NativeSaved(task, model)

    def archive(self, task: Task, model: ModelConfig, archive: Path) -> bool:
        folder = task.folder(model)
        ours = [
            failures.path_in(folder),
            answer_counts.path_in(folder),
            ledger.path_in(folder),
            folder / "evalflow" / "benchmarks.json",
            folder / "evalflow" / "saved",
        ]
        return move_to(archive, folder, [*(folder / name for name in _FOLDERS), *ours])

    def archive_verdicts(self, task: Task, model: ModelConfig, dataset: str, archive: Path) -> bool:
        folder = task.folder(model)
        found = NativeSaved(task, model)
        saved, judge = SavedRows(folder, dataset), judge_id(found.cell(dataset).verdicts)
        files, rows = found.files("reviews", dataset), saved.rows()
        for reviews in files:
            subset = reviews.stem.removeprefix(f"{dataset}_")
            answers = folder / "predictions" / model.name / reviews.name
            archive_verdicts(saved, judge, subset, answers, reviews, rows)
        report = found.report_path(dataset)
        return move_to(archive, folder, [report, kept_path(folder, report)]) or bool(files)

    def row_files(self, folder: Path) -> Iterable[Path]:
        return [path for kind in ("predictions", "reviews") for path in (folder / kind).rglob("*.jsonl")]

    def samples(self, folder: Path, model: str, dataset: str) -> Iterator[Sample]:
        return native_samples(folder, model, dataset)

    def saved_result(self, folder: Path, model: str, dataset: str) -> DatasetResult | None:
        return saved_result(folder, model, dataset)

    def sample_files(self, folder: Path, model: str) -> Iterable[Path]:
        return sample_files(folder, model)

    def published_samples(self, task: Task, dataset: str) -> int | None:
        settings = (task.stock.get("dataset_args") or {}).get(dataset) or {}
        if settings.get("local_path"):
            return local_samples(task, dataset)
        return catalog.native_samples(catalog.evalscope_folder(task.flow.worker_env), dataset)


def has_predictions(folder: Path) -> bool:
    """Whether there is anything to resume. EvalScope refuses a folder without the task that it was made by."""
    snapshot = folder / "configs" / "task_config.yaml"
    places = folder / "predictions", folder / "evalflow" / "saved"  # answers may come back from the second
    return snapshot.is_file() and any(path.stat().st_size for place in places for path in place.rglob("*.jsonl"))


def _has_judge(stock: Mapping[str, Any]) -> bool:
    return bool((stock.get("judge") or {}).get("models"))
