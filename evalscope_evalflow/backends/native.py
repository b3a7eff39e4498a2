"""EvalScope's own backend."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evalscope_evalflow import catalog, failures, ledger
from evalscope_evalflow.backends.base import Backend, Saved
from evalscope_evalflow.backends.native_results import NativeSaved
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.errors import Problem, nearest
from evalscope_evalflow.task import Task

# Benchmarks of the user's own data: a subset is a file whose name begins with the subset's.
_SUBSET_FILES = {"general_qa", "general_mcq", "general_vqa", "general_vmcq"}
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
        yield from _dataset_args_problems(task, known, catalog.benchmark_fields(folder))
        fields = catalog.task_fields(folder)
        for name in task.stock:
            if fields and name not in fields:
                yield Problem(name, "unknown key", f"{nearest(name, fields)} Known: {', '.join(fields)}".strip())
        yield from _generation_problems(task.stock.get("generation_config"), catalog.generation_fields(folder))
        yield from _judge_problems(task.stock.get("judge") or {}, catalog.judge_fields(folder))
        for place, choices in catalog.choices(folder).items():
            yield from _choice_problems(task.stock, place, choices)
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

    def look(self, task: Task, model: ModelConfig) -> Saved:
        return NativeSaved(task, model)

    def put_aside(self, task: Task, model: ModelConfig, kept: Path) -> bool:
        folder = task.folder(model)
        ours = [failures.path_in(folder), ledger.path_in(folder), folder / "evalflow" / "benchmarks.json"]
        return _move([*(folder / name for name in _FOLDERS), *ours], folder, kept)

    def put_verdicts_aside(self, task: Task, model: ModelConfig, dataset: str, kept: Path) -> bool:
        report = task.folder(model) / "reports" / model.name / f"{dataset}.json"
        return _move([*NativeSaved(task, model).files("reviews", dataset), report], task.folder(model), kept)

    def worker_task(self, task: Task, model: ModelConfig, max_num_seqs: int) -> dict[str, Any]:
        judged = bool((task.stock.get("judge") or {}).get("models"))
        told = super().worker_task(task, model, max_num_seqs)
        return {**told, "judge_batch_size": task.flow.judge_max_num_seqs if judged else None}


def _dataset_args_problems(task: Task, known: list[str], keys: tuple[str, ...]) -> Iterable[Problem]:
    for name, settings in (task.stock.get("dataset_args") or {}).items():
        where = f"dataset_args.{name}"
        if name not in task.datasets:
            # Settings of a benchmark that is left out today do no harm; a misspelt one would be ignored in silence.
            if name not in known:
                yield Problem(where, "EvalScope has no such benchmark", nearest(name, [*task.datasets, *known]))
            continue
        if not isinstance(settings, Mapping):
            yield Problem(where, "is no mapping", "Write it as {local_path: …, subset_list: […]}.")
            continue
        for key in settings:
            if keys and key not in keys:
                yield Problem(f"{where}.{key}", "EvalScope would ignore it", nearest(str(key), keys))
        path = settings.get("local_path")
        if path and not Path(path).expanduser().exists():
            yield Problem(f"{where}.local_path", f"{path} does not exist", "Give the folder that holds its files.")
        elif path and name in _SUBSET_FILES and Path(path).expanduser().is_dir():
            yield from _subset_problems(where, Path(path).expanduser(), settings.get("subset_list") or ())


def _subset_problems(where: str, folder: Path, subsets: Iterable[Any]) -> Iterable[Problem]:
    """Subsets that no file of a folder begins with the name of."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    for subset in subsets:
        if not any(name.startswith(str(subset)) for name in files):
            there = f"There is {', '.join(files[:5])}." if files else "It is empty."
            yield Problem(f"{where}.subset_list", f"{folder} has no file of the subset {subset}", there)


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


def _choice_problems(part: Any, place: str, choices: Mapping[str, tuple[str, ...]]) -> Iterable[Problem]:
    """Words that EvalScope does not know, at a place of the stock task such as `judge.contract`."""
    for step in place.split("."):
        part = part.get(step) if isinstance(part, Mapping) else None
    for name, allowed in choices.items():
        value = part.get(name) if isinstance(part, Mapping) else None
        if value is not None and str(value) not in allowed:
            hint = f"{nearest(str(value), allowed)} It is one of: {', '.join(allowed)}".strip()
            yield Problem(f"{place}.{name}", f"there is no {value!r}", hint)


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
