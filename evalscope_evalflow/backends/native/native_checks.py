"""Checks what of a task EvalScope's own backend cannot do, by EvalScope's files, before anything is started."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.backends.stock_checks import stock_problems
from evalscope_evalflow.config import catalog
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.errors import Problem, nearest

if TYPE_CHECKING:
    from evalscope_evalflow.config.task import Task


def native_problems(task: Task) -> Iterable[Problem]:
    """What EvalScope would refuse, ignore, or not find, as far as its files tell."""
    folder = catalog.evalscope_folder(task.flow.worker_env)
    known = sorted(catalog.native_datasets(folder))
    defaults = set(task.datasets) == set(catalog.DEFAULT_VLM_DATASETS)
    if defaults:
        what = "none is given, and the command's defaults are VLMEvalKit's"
        yield Problem("datasets", what, "Name benchmarks of EvalScope's own backend, such as --datasets gsm8k.")
    for dataset in () if defaults else task.datasets:
        if dataset not in known:
            yield Problem(
                "datasets",
                f"EvalScope's Native backend has no benchmark {dataset!r}",
                f"{nearest(dataset, known)} `evalscope benchmark-info --list` shows all {len(known)}.".strip(),
            )
    yield from _dataset_args_problems(task, known, catalog.benchmark_fields(folder))
    yield from stock_problems(task, folder)
    yield from _judge_problems(task.stock.get("judge") or {}, catalog.judge_fields(folder))
    if task.flow.mode != "infer":
        yield from _scoring_problems(task, folder)
    yield from _limit_problems(task.stock.get("limit"))


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
        if path and not os.path.exists(user_path(path)):
            yield Problem(f"{where}.local_path", _not_there(path), "Give the folder that holds its files.")


def _not_there(path: str) -> str:
    """What to say of a path that leads nowhere, with where it was looked for."""
    full = os.path.abspath(os.path.expanduser(path))
    return f"{path} does not exist" + ("" if full == path else f": neither {full}, nor beside the task's file")


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


def _scoring_problems(task: Task, folder: Path) -> Iterable[Problem]:
    """Benchmarks that need a judge, where there is none; EvalScope says so when the engine is up."""
    judge = task.stock.get("judge") or {}
    strategy = judge.get("strategy") or "auto"
    for dataset in task.datasets:
        policy = catalog.scoring_policy(folder, dataset) or ""
        judged = strategy in ("llm", "llm_recall") or (strategy == "auto" and policy.startswith("JUDGE"))
        if judged and not judge.get("models"):
            why = f"judge.strategy is {strategy}" if strategy != "auto" else "it is scored by a judge"
            todo = (
                "Give one: judge: {models: [{model_id: …, api_url: …, api_key: …}]}, or `mode: infer` to judge later."
            )
            yield Problem("judge.models", f"{dataset} needs a judge ({why}), and there is none", todo)
        elif strategy in ("rule", "llm_recall") and policy == "JUDGE_ONLY":
            yield Problem("judge.strategy", f"{dataset} cannot be scored by rules", "Set it to auto or llm.")


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
