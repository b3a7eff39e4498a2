"""What the installed EvalScope knows, read from its files: importing it would take seconds."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import re
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional, Union

from platformdirs import user_cache_path

from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.file_locks import locked
from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.config.python_source import parse
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.events.whole_files import write_whole

# What the command evaluates on where nothing is said; known without looking into VLMEvalKit.
DEFAULT_VLM_DATASETS = ("LogicVista", "MathVista_MINI", "WeMath", "MathVision", "MathVerse_MINI", "DynaMath")
IMPORT_TIMEOUT_S = 300.0  # 20 to 40 s are usual for VLMEvalKit, and file caches may be cold
# What annotations of numbers and switches are made of.
_PLAIN: dict[str, Any] = {"int": int, "float": float, "bool": bool, "Optional": Optional, "Union": Union}
_LIST_DATASETS = """\
import contextlib, json, sys
with contextlib.redirect_stdout(sys.stderr):
    from vlmeval.dataset import SUPPORTED_DATASETS
print(json.dumps(sorted(set(SUPPORTED_DATASETS))))
"""


@lru_cache(maxsize=8)  # a sweep asks for each cell; what is not there is looked for again
def evalscope_folder(worker_env: str | None = None) -> Path:
    """The folder of the `evalscope` package in the worker's environment.

    Raises:
        ConfigError: it is not installed there.
    """
    try:
        env = Environment.find(worker_env)
    except FileNotFoundError as error:
        todo = "Give a conda prefix or its name, a venv, a uv environment, or an interpreter that has EvalScope."
        raise ConfigError(Problem("worker_env", str(error), todo)) from error
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


@lru_cache(maxsize=1024)
def native_samples(folder: Path, dataset: str) -> int | None:
    """Samples of a benchmark, all subsets together, as EvalScope describes it; None where it does not say.

    Args:
        folder: of the `evalscope` package.
        dataset: the benchmark's name.
    """
    try:
        about = json.loads((folder / "benchmarks" / "_meta" / f"{dataset}.json").read_text(encoding="utf-8"))
        return int(about["statistics"]["total_samples"]) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def vlmevalkit_folder(worker_env: str | None = None) -> Path | None:
    """The folder of the `vlmeval` package in the worker's environment; None if it is not installed there.

    Raises:
        ConfigError: there is no EvalScope.
    """
    folder = evalscope_folder(worker_env).parent / "vlmeval"
    return folder if os.path.isdir(folder) else None


def vlmevalkit_datasets(worker_env: str | None = None, *, ask: bool = True) -> frozenset[str]:
    """The names of VLMEvalKit's datasets.

    It is imported for that once for each environment and version, which takes half a minute.

    Args:
        worker_env: the environment that evaluates; None: this one.
        ask: whether it is imported; else those are given that are known without it.

    Raises:
        ConfigError: it cannot be imported.
    """
    env = Environment.find(worker_env)
    folder = vlmevalkit_folder(worker_env)
    found = sorted(folder.parent.glob("ms_vlmeval-*.dist-info")) if folder else []
    identity = [str(env.prefix), *(f"{path.name} {path.stat().st_mtime_ns}" for path in found)]
    name = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]
    file = user_cache_path("evalflow", ensure_exists=True) / f"vlmevalkit-{name}.json"
    if not ask and not os.path.exists(file):
        return frozenset(DEFAULT_VLM_DATASETS)
    with locked(file.with_suffix(".lock")):
        if not os.path.exists(file):
            write_whole(file, _list_vlmevalkit_datasets(env))
    return frozenset(json.loads(file.read_text(encoding="utf-8")))


def vlmevalkit_has(dataset: str, worker_env: str | None = None) -> bool:
    """Whether VLMEvalKit has a dataset of this name, or the user has made one.

    VLMEvalKit is imported, which takes half a minute once, only where its source text has the name, or where EvalScope
    has none of that name.

    Raises:
        ConfigError: there is no EvalScope, or VLMEvalKit cannot be imported.
    """
    if dataset in DEFAULT_VLM_DATASETS or os.path.isfile(lmudata() / f"{dataset}.tsv"):
        return True
    folder = vlmevalkit_folder(worker_env)
    if folder is None or (dataset in native_datasets(folder.parent / "evalscope") and dataset not in _words_of(folder)):
        return False
    return dataset in vlmevalkit_datasets(worker_env)


def lmudata() -> Path:
    """VLMEvalKit's folder of data."""
    return Path(os.environ.get("LMUData") or Path.home() / "LMUData")  # noqa: SIM112 - VLMEvalKit's own name


@lru_cache(maxsize=4)
def _words_of(folder: Path) -> frozenset[str]:
    """The words in quotes in VLMEvalKit's source of datasets: every name that it writes out is among them."""
    texts = (path.read_text(encoding="utf-8", errors="ignore") for path in (folder / "dataset").rglob("*.py"))
    return frozenset(word for text in texts for word in re.findall(r"""["']([\w.\-]+)["']""", text))


def _list_vlmevalkit_datasets(env: Environment) -> str:
    try:
        done = subprocess.run(
            env.wrap([str(env.python), "-c", _LIST_DATASETS]), env=env.variables(os.environ), capture_output=True,
            text=True, timeout=IMPORT_TIMEOUT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise ConfigError(
            Problem(
                "worker_env",
                f"VLMEvalKit cannot be imported in {env.prefix}: {said[-1] if said else error}",
                f"{install_command('vlmeval', env)}: it has versions that fit.",
            )
        ) from error
    return done.stdout.strip().splitlines()[-1]


@lru_cache
def native_datasets(folder: Path) -> frozenset[str]:
    """The names of the Native backend's benchmarks."""
    names = {path.stem for path in (folder / "benchmarks" / "_meta").glob("*.json")} - {"_index"}
    index = folder / "benchmarks" / "_index.json"
    if os.path.isfile(index):
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
def benchmark_fields(folder: Path) -> tuple[str, ...]:
    """The keys of `dataset_args.NAME`: what can be set of a benchmark."""
    fields = _fields(folder / "api" / "benchmark" / "meta.py", "BenchmarkMeta")
    return ("local_path", *fields) if fields else ()


@lru_cache
def judge_fields(folder: Path) -> dict[str, tuple[str, ...]]:
    """The keys of `judge`, of each of its `models`, and of its `contract`."""
    names = {"judge": "JudgeConfig", "judge.models": "JudgeModelConfig", "judge.contract": "JudgeContractConfig"}
    return {place: _fields(folder / "config.py", name) for place, name in names.items()}


@lru_cache
def choices(folder: Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """What keys of `generation_config`, `judge` and its `contract` may be set to, where that is one of a few words."""
    homes = {
        "generation_config": ("api/model/generate_config.py", "GenerateConfig"),
        "judge": ("config.py", "JudgeConfig"),
        "judge.contract": ("config.py", "JudgeContractConfig"),
    }
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for place, (file, name) in homes.items():
        words = {key: _words(annotation) for key, annotation in _annotations(folder / file, name).items()}
        found[place] = {key: allowed for key, allowed in words.items() if allowed}
    return found


@lru_cache
def plain_types(folder: Path) -> dict[str, dict[str, Any]]:
    """The types of those stock fields that are numbers or switches, of the task ("") and of mappings in it."""
    homes = {
        "": ("config.py", "TaskConfig"),
        "generation_config": ("api/model/generate_config.py", "GenerateConfig"),
        "judge": ("config.py", "JudgeConfig"),
        "dataset_args": ("api/benchmark/meta.py", "BenchmarkMeta"),
    }
    found: dict[str, dict[str, Any]] = {}
    for place, (file, name) in homes.items():
        types = {key: _plain_type(annotation) for key, annotation in _annotations(folder / file, name).items()}
        found[place] = {key: kind for key, kind in types.items() if kind is not None}
    return found


@lru_cache
def benchmark_source(folder: Path, dataset: str) -> str:
    """The source text of the module that a benchmark is in; empty where it is not found."""
    try:
        index = json.loads((folder / "benchmarks" / "_index.json").read_text(encoding="utf-8"))
        return folder.joinpath(*index[dataset].split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8")
    except (OSError, ValueError, KeyError, AttributeError):
        return ""


@lru_cache
def scoring_policy(folder: Path, dataset: str) -> str | None:
    """How a benchmark is scored, such as `JUDGE_ONLY`, as its class says; None where it says nothing."""
    try:
        tree = parse(benchmark_source(folder, dataset))
    except SyntaxError:
        return None
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or not any(_names(item, dataset) for item in node.decorator_list):
            continue
        for item in node.body:
            match item:
                case ast.Assign(targets=[ast.Name(id="scoring_policy")], value=ast.Attribute(attr=policy)):
                    return policy
    return None


def _names(decorator: ast.expr, dataset: str) -> bool:
    """Whether a class is registered under this name."""
    return any(
        isinstance(word.value, ast.Constant) and word.value.value == dataset
        for word in ast.walk(decorator)
        if isinstance(word, ast.keyword) and word.arg == "name"
    )


def _fields(file: Path, name: str) -> tuple[str, ...]:
    """The annotated names of a class; empty where it is not found."""
    return tuple(_annotations(file, name))


def _annotations(file: Path, name: str) -> dict[str, ast.expr]:
    """The annotated names of a class, with their annotations; empty where it is not found."""
    try:
        tree = parse(file.read_text(encoding="utf-8"))
    except OSError:
        return {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return {
                item.target.id: item.annotation
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
    return {}


def _words(annotation: ast.expr) -> tuple[str, ...]:
    """The words of `Literal[…]`, be it in `Optional[…]`; empty where the annotation is another."""
    match annotation:
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return _words(inner)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=items)):
            return tuple(str(item.value) for item in items if isinstance(item, ast.Constant))
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Constant(value=item)):
            return (str(item),)
    return ()


def _plain_type(annotation: ast.expr) -> Any:
    """The type that an annotation stands for, if it is one of numbers and switches; else None."""
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    if not names <= set(_PLAIN):
        return None
    return eval(compile(ast.Expression(annotation), "annotation", "eval"), {"__builtins__": {}}, _PLAIN)
