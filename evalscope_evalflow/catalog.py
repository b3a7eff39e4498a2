"""What the installed EvalScope knows, read from its files: importing it would take seconds."""

from __future__ import annotations

import ast
import importlib.util
import json
from functools import lru_cache
from pathlib import Path

from evalscope_evalflow.engines.environment import Environment
from evalscope_evalflow.errors import ConfigError, Problem


def evalscope_folder(worker_env: str | None = None) -> Path:
    """The folder of the `evalscope` package in the worker's environment.

    Raises:
        ConfigError: it is not installed there.
    """
    try:
        env = Environment.find(worker_env)
    except FileNotFoundError as error:
        raise ConfigError(Problem("worker_env", str(error))) from error
    if env.own:
        spec = importlib.util.find_spec("evalscope")
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    else:
        for folder in sorted(env.prefix.glob("lib/python3*/site-packages/evalscope")):
            return folder
    raise ConfigError(
        Problem(
            "worker_env",
            f"EvalScope is not installed in {env.prefix}",
            "pip install 'evalscope>=1.11,<2' there.",
        )
    )


@lru_cache
def native_datasets(folder: Path) -> frozenset[str]:
    """The names of the Native backend's benchmarks."""
    names = {path.stem for path in (folder / "benchmarks" / "_meta").glob("*.json")} - {"_index"}
    index = folder / "benchmarks" / "_index.json"
    if index.is_file():
        names |= set(json.loads(index.read_text(encoding="utf-8")))
    return frozenset(names)


@lru_cache
def task_fields(folder: Path) -> tuple[str, ...]:
    """The fields of TaskConfig, in their order, and the old names that it still takes."""
    fields = _fields(folder / "config.py", "TaskConfig")
    return (*fields, "judge_strategy", "judge_model_args") if fields else ()


@lru_cache
def generation_fields(folder: Path) -> tuple[str, ...]:
    """The keys of `generation_config`, in their order."""
    return _fields(folder / "api" / "model" / "generate_config.py", "GenerateConfig")


@lru_cache
def judge_fields(folder: Path) -> dict[str, tuple[str, ...]]:
    """The keys of `judge`, of each of its `models`, and of its `contract`."""
    names = {"judge": "JudgeConfig", "judge.models": "JudgeModelConfig", "judge.contract": "JudgeContractConfig"}
    return {place: _fields(folder / "config.py", name) for place, name in names.items()}


def _fields(file: Path, name: str) -> tuple[str, ...]:
    """The annotated names of a class; empty where it is not found."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except OSError:
        return ()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return tuple(
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            )
    return ()
