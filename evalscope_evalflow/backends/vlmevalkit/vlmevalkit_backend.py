"""VLMEvalKit, as EvalScope runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.base import Backend, Saved, move_to
from evalscope_evalflow.backends.dataset_result import DatasetResult
from evalscope_evalflow.backends.known_sources import changed_places, shown
from evalscope_evalflow.backends.native.rows_files import judge_id
from evalscope_evalflow.backends.sample import Sample
from evalscope_evalflow.backends.vlmevalkit import vlmevalkit_samples_files, vlmevalkit_sources
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import model_type
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_results import VLMEvalKitSaved, saved_result
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_samples import sample_files, vlmevalkit_samples
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_sources import VERSIONS
from evalscope_evalflow.config import ModelConfig, catalog
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.eval_types import ASKED_BY
from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError, Problem, nearest
from evalscope_evalflow.state import answer_counts, failures
from evalscope_evalflow.state import cells as ledger
from evalscope_evalflow.worker.kept_reports import KEPT, kept_path

# What a stock task can say, and VLMEvalKit cannot do.
_CANNOT = {
    "dataset_args": "VLMEvalKit's datasets have no settings",
    "agent_config": "VLMEvalKit runs no agents",
    "sandbox": "VLMEvalKit has no sandbox",
}
# Splits whose right answers are not published: VLMEvalKit (vlmeval/run.py) passes over their evaluation without a word.
_UNSCORED = {
    "DocVQA_TEST", "InfoVQA_TEST", "Q-Bench1_TEST", "A-Bench_TEST", "AesBench_TEST", "MMMU_TEST", "MLLMGuard_DS",
    *(f"MMBench{kind}{version}" for kind in ("", "_CN", "_TEST_CN", "_TEST_EN") for version in ("", "_V11")),
}  # fmt: skip
# What VLMEvalKit needs, and does not say in its metadata: each package below this major version.
LIMITS = {"transformers": 5, "pandas": 3}
_JUDGE_CANNOT = ("contract", "position_swap", "aggregation", "min_valid_judges")


class VLMEvalKit(Backend):
    """`eval_backend: VLMEvalKit`."""

    name = "VLMEvalKit"
    interface_version = 1
    distributions = ("evalscope", "ms-vlmeval")
    worker_half = "vlmevalkit_worker.py:VLMEvalKitWorker"

    def recognises(self, dataset: str, settings: Mapping[str, Any], worker_env: str | None) -> bool:
        return catalog.vlmevalkit_has(dataset, worker_env)

    def check_installed(self, worker_env: str | None) -> Iterable[Problem]:
        if catalog.vlmevalkit_folder(worker_env) is None:
            install = install_command("vlmeval", Environment.find(worker_env))
            yield Problem(
                "worker_env",
                f"VLMEvalKit is not installed beside EvalScope in {catalog.evalscope_folder(worker_env).parent}",
                f"{install}, or name an environment of its own that has both: `worker_env`.",
            )
            return
        env = Environment.find(worker_env)
        found = {name: env.version_of(name) for name in LIMITS}
        wrong = [
            f"{name} is {version}, and it needs < {LIMITS[name]}" if version else f"{name} is missing"
            for name, version in found.items()
            if version is None or int(version.split(".")[0]) >= LIMITS[name]
        ]
        if wrong:
            install = " ".join(f"'{name}<{limit}'" for name, limit in LIMITS.items())
            what = f"VLMEvalKit in {env.prefix} cannot be used: {'; '.join(wrong)}"
            yield Problem("worker_env", what, f"pip install {install}, in an environment without vLLM.")
        folder = catalog.vlmevalkit_folder(worker_env)
        changed = changed_places(folder, vlmevalkit_sources.PLACES) if folder else []
        if changed:
            yield Problem(
                "worker_env",
                f"ms-vlmeval {env.version_of('ms-vlmeval')} in {env.prefix} is none of the versions that EvalFlow was "
                f"written for: {shown(changed)} changed. Scores could be wrong",
                f"pip install ms-vlmeval=={VERSIONS[-1]}; {', '.join(VERSIONS)} work.",
            )

    # What only preflight needs (pydantic, readers of data) is not imported to read what a run has left.

    def check(self, task: Task) -> Iterable[Problem]:
        from evalscope_evalflow.backends.stock_checks import stock_problems

        folder = catalog.evalscope_folder(task.flow.worker_env)
        missing = list(self.check_installed(task.flow.worker_env))
        yield from missing
        if missing:
            return
        yield from stock_problems(task, folder)
        yield from _limit_problems(task.stock.get("limit"))
        for name, why in _CANNOT.items():
            if task.stock.get(name):
                yield Problem(name, why, "Leave it out, or set `backend: Native`.")
        if str(task.stock.get("repeats") or 1) != "1":
            yield Problem("repeats", "VLMEvalKit asks every question once", "Leave it out.")
        yield from _judge_problems(task)
        yield from _dataset_problems(task)
        for name in task.datasets if task.flow.mode != "infer" else ():
            if name in _UNSCORED or "MMT-Bench_ALL" in name:
                yield Problem(
                    "datasets",
                    f"VLMEvalKit does not score {name}: its right answers are not published",
                    "Set `mode: infer`, which saves the model's answers, or leave it out.",
                )

    def check_data(self, task: Task, notify: Callable[[str], None]) -> Iterable[Problem]:
        from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_data_checks import data_problems

        return data_problems(task, notify)

    def stock_task(self, task: Task, model: ModelConfig, max_num_seqs: int) -> dict[str, Any]:
        return {
            "eval_backend": "VLMEvalKit",
            "eval_config": {
                "model": [{"name": "CustomAPIModel", "type": model.name}],
                "data": list(task.datasets),
                "limit": task.stock.get("limit"),
                "nproc": task.stock.get("eval_batch_size") or max_num_seqs,
                "reuse": True,
            },
            "work_dir": str(task.folder(model)),
            "no_timestamp": True,
            **({"seed": task.stock["seed"]} if "seed" in task.stock else {}),
        }

    def worker_settings(self, task: Task, model: ModelConfig) -> dict[str, Any]:
        judge = (task.stock.get("judge") or {}).get("models")
        return {
            "model": model.name,
            "datasets": list(task.datasets),
            "limit": task.stock.get("limit"),
            "served_name": model.served_name,
            "generation_config": _generation(task, model),
            "model_args": task.stock.get("model_args"),
            "judge": (judge[0] if isinstance(judge, list) else judge) or None,
            "verify_md5": task.flow.verify_md5,
            "judges": {dataset: judge_id(cell.verdicts) for dataset, cell in ledger.read(task.folder(model)).items()},
        }

    def look(self, task: Task, model: ModelConfig) -> Saved:
        return VLMEvalKitSaved(task, model)

    def samples(self, folder: Path, model: str, dataset: str) -> Iterator[Sample]:
        return vlmevalkit_samples(folder, model, dataset)

    def sample_files(self, folder: Path, model: str) -> Iterable[Path]:
        return sample_files(folder, model)

    def saved_result(self, folder: Path, model: str, dataset: str) -> DatasetResult | None:
        return saved_result(folder, model, dataset)

    def archive(self, task: Task, model: ModelConfig, archive: Path) -> bool:
        folder = task.folder(model)
        paths = [folder / name for name in (model_type(model.name), "configs", "logs", "reports", KEPT)]
        ours = [
            failures.path_in(folder),
            answer_counts.path_in(folder),
            ledger.path_in(folder),
            folder / "evalflow" / "vlmevalkit",
            folder / "evalflow" / "saved",
        ]
        return move_to(archive, folder, [*paths, *ours])

    def archive_verdicts(self, task: Task, model: ModelConfig, dataset: str, archive: Path) -> bool:
        saved = VLMEvalKitSaved(task, model)
        files = saved.files(dataset)
        kept = files.keep_verdicts(judge_id(saved.cell(dataset).verdicts))
        folder = task.folder(model)
        moved = move_to(archive, folder, [*files.made(), files.report, kept_path(folder, files.report)])
        vlmevalkit_samples_files.forget(files)
        files.write(verdicts_on={}, judged=None, fallbacks={}, scored=0, left_out=0)
        return moved or kept


def _generation(task: Task, model: ModelConfig) -> dict[str, Any]:
    settings = task.generation_config(model) or {}
    return dict(settings) if isinstance(settings, Mapping) else {}


def _limit_problems(limit: Any) -> Iterator[Problem]:
    if limit is None:
        return
    if isinstance(limit, float):
        yield Problem("limit", f"{limit}: VLMEvalKit takes no fraction", "Give a whole number of samples.")
    elif isinstance(limit, bool) or not isinstance(limit, int):
        yield Problem("limit", f"{limit!r} is no number", "Give a whole number of samples; leave it out for all.")
    elif limit < 1:
        yield Problem("limit", f"{limit} leaves nothing to evaluate", "Give a whole number of samples.")


def _judge_problems(task: Task) -> Iterator[Problem]:
    judge = task.stock.get("judge") or {}
    models = judge.get("models") or []
    if isinstance(models, list) and len(models) > 1:
        yield Problem("judge.models", "VLMEvalKit asks one judge", f"Keep one of the {len(models)}.")
    for number, model in enumerate([models] if isinstance(models, Mapping) else models):
        eval_type = model.get("eval_type") if isinstance(model, Mapping) else None
        if eval_type not in (None, *ASKED_BY):
            what = f"is {eval_type!r}, but VLMEvalKit's judge is asked for chat completions (openai_api)"
            yield Problem(f"judge.models.{number}.eval_type", what, "Leave it out.")
    if str(judge.get("repeats") or 1) != "1":
        yield Problem("judge.repeats", "VLMEvalKit asks its judge once", "Leave it out.")
    for name in _JUDGE_CANNOT:
        if judge.get(name):
            yield Problem(f"judge.{name}", "VLMEvalKit's datasets bring their own", "Leave it out.")
    if judge.get("strategy") not in (None, "auto", "llm"):
        yield Problem("judge.strategy", f"VLMEvalKit has no {judge['strategy']!r}", "Leave it out.")
    if not models and task.flow.mode != "infer":
        yield Problem(
            "judge",
            "none is given, and VLMEvalKit's datasets are scored with one",
            "Give judge: {models: [{model_id: …, api_url: …, api_key: …}]}, or set `mode: infer`.",
        )


def _dataset_problems(task: Task) -> Iterator[Problem]:
    folder = os.environ.get("LMUData")  # noqa: SIM112 - VLMEvalKit's own name
    if folder and not os.path.isdir(Path(folder)):
        yield Problem(
            "LMUData", f"{folder} does not exist", "It is the folder of VLMEvalKit's data: make it, or unset it."
        )
        return
    data = catalog.lmudata()
    unknown = [name for name in task.datasets if name not in catalog.DEFAULT_VLM_DATASETS]
    unknown = [name for name in unknown if not os.path.isfile(data / f"{name}.tsv")]
    if not unknown:
        return
    try:
        known = catalog.vlmevalkit_datasets(task.flow.worker_env)
    except ConfigError as error:
        yield from error.problems
        return
    for name in unknown:
        if name not in known:
            yield Problem(
                "datasets",
                f"VLMEvalKit has no dataset {name!r}",
                f"{nearest(name, sorted(known))} A dataset of your own goes into {data / name}.tsv.".strip(),
            )
