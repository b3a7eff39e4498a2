"""What answers and verdicts depend on: saved ones are reused only where it is the same.

Predictions depend on the checkpoint, the dataset, the prompt and the generation settings; verdicts on those, and on
the judge. EvalScope's own identity mixes the two, and would refuse to judge today what was predicted yesterday.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evalscope_evalflow.config import DeployConfig, ModelConfig, keys
from evalscope_evalflow.config.task import PATIENCE_KEYS, Task
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.errors import ConfigError

# Of a stock task, beside generation_config and dataset_args: what decides which samples are asked, and how.
_ASKED = (
    "limit", "repeats", "seed", "model_args", "model_task", "chat_template", "dataset_hub", "dataset_dir",
    "agent_config", "sandbox",
)  # fmt: skip
_ELSEWHERE = {"api_url", "api_key", "timeout", "retries", "retry_interval", "max_retries"}
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_HASHED_BYTES = 4 * 1024**2  # of smaller files the content counts; of weights, size and time


def predictions(task: Task, model: ModelConfig, dataset: str) -> dict[str, Any]:
    """What a model's answers on a dataset depend on, as JSON has it; no key is in it."""
    return predictions_on(task, model, [dataset])[dataset]


def predictions_on(task: Task, model: ModelConfig, datasets: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The same for several datasets, with one look at the checkpoint."""
    deploy = task.flow.deploy_for(model)
    found: dict[str, Any] = {
        "backend": task.flow.backend,
        "model": model.served_name,
        "engine": _engine(model, deploy),
        "checkpoint": checkpoint(model.path) if model.path else None,
        "deploy.chat_template": _content(deploy.chat_template),
        **{name: task.stock.get(name) for name in _ASKED},
    }
    generation = task.generation_config(model) or {}
    if isinstance(generation, Mapping):
        found |= {f"generation_config.{name}": value for name, value in generation.items() if name not in PATIENCE_KEYS}
    common = _plain(found)
    settings = task.stock.get("dataset_args") or {}
    return {
        dataset: dict(sorted((common | _plain({"dataset_args": settings.get(dataset)})).items()))
        for dataset in datasets
    }


def verdicts(task: Task) -> dict[str, Any]:
    """What verdicts depend on beside the answers: the judge, wherever it is served."""
    judge = task.stock.get("judge") or {}
    models = judge.get("models") or []
    models = [models] if isinstance(models, Mapping) else models
    found = {name: value for name, value in judge.items() if name != "models"}
    found["models"] = [{name: value for name, value in item.items() if name not in _ELSEWHERE} for item in models]
    return _plain(found)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed, in words, such as "limit was 4 and is 8"."""
    changed = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            parts = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
            changed += [f"{name}.{key} was {_short(old.get(key))} and is {_short(new.get(key))}" for key in parts]
        else:
            changed.append(f"{name} was {_short(old)} and is {_short(new)}")
    return changed


def checkpoint(path: str) -> dict[str, str]:
    """A fingerprint of each file of a checkpoint: content of small ones, size and time of weights.

    The path is not in it, so a checkpoint may be moved; one that training has written again is another.
    """
    root = Path(path).expanduser()
    if not root.exists():
        return {"hub": path}
    return {name: _file(file) for name, file in _files(root)}


def _engine(model: ModelConfig, deploy: DeployConfig) -> str:
    """The engine's name, also where `auto` stands for it."""
    try:
        return resolve_engine(model, deploy).name
    except ConfigError:
        return deploy.engine


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    if root.is_file():
        yield "file", root
        return
    for file in sorted(root.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            yield file.name, file


def _file(file: Path) -> str:
    found = file.stat()
    if file.suffix in _WEIGHTS or found.st_size > _HASHED_BYTES:
        return f"{found.st_size} bytes of {found.st_mtime_ns}"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _content(template: str | None) -> str | None:
    """A template by what it says: its path may change."""
    if template is None or not os.path.isfile(os.path.expanduser(template)):
        return template
    return hashlib.sha256(Path(template).expanduser().read_bytes()).hexdigest()[:16]


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON; what is unset counts like what is not there."""
    plain = json.loads(json.dumps(keys.redact(found), sort_keys=True, default=str))
    return {name: value for name, value in plain.items() if value not in (None, {}, [])}


def _short(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
