"""Checkpoints in Hugging Face's layout: what their files tell before any weight is read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines.checkpoints import safetensors_headers as weights
from evalscope_evalflow.engines.checkpoints.shape import language_config
from evalscope_evalflow.errors import Problem

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def check(path: str | None, where: str = "path") -> Iterable[Problem]:
    """Whether a path is a checkpoint: a folder with config.json and weights, or a model in the hub's cache."""
    if not path:
        yield Problem(where, "no checkpoint is given", "Set the folder of the checkpoint.")
        return
    folder = Path(path).expanduser()
    if not folder.exists():
        if _HUB_ID.fullmatch(path):
            if hub_snapshot(path) is None:
                yield Problem(
                    where,
                    f"{path} is neither a folder nor in the Hugging Face cache",
                    f"Download it first (`hf download {path}`), or give the checkpoint's folder.",
                )
        else:
            yield Problem(where, f"{path} does not exist", "Give the checkpoint's folder.")
    elif folder.is_file():
        yield Problem(where, f"{path} is a file, not a checkpoint's folder", "A .gguf file is for engine llamacpp.")
    elif not (folder / "config.json").is_file():
        inside = ", ".join(sorted(item.name for item in folder.iterdir())[:5]) or "nothing"
        yield Problem(where, f"{path} is no checkpoint: it has no config.json (it holds {inside})")
    elif read_config(path) is None:
        yield Problem(where, f"{path} is no checkpoint: its config.json is not JSON")
    elif not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        yield Problem(where, f"{path} has a config.json, but no weights ({', '.join(_WEIGHTS)})")
    else:
        try:
            weights.read(folder)
        except weights.Damaged as error:
            yield Problem(where, f"{path} is damaged: {error}", "Download or copy it again.")
        except OSError as error:
            yield Problem(where, f"{error.filename} cannot be read: {error.strerror}")


def check_context(model: ModelConfig, deploy: DeployConfig, unless: tuple[str, ...]) -> Iterable[Problem]:
    """Whether the model was made for so long a context; `unless`: options that may change that."""
    longest = context_length(model.path) if model.path else None
    overridden = any(word.startswith(unless) for word in deploy.extra_args)
    if longest and (deploy.max_model_len or 0) > longest and not overridden:
        yield Problem(
            "deploy.max_model_len",
            f"{deploy.max_model_len} tokens, but {model.name} was made for {longest} (its config.json)",
            f"Lower it to {longest} (--eval_max_model_length).",
        )


def hub_snapshot(model_id: str) -> Path | None:
    """The newest snapshot of a hub model in the local cache."""
    cache = os.environ.get("HF_HUB_CACHE") or os.path.join(
        os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"), "hub"
    )
    snapshots = Path(cache, "models--" + model_id.replace("/", "--"), "snapshots")
    return max((item for item in snapshots.glob("*") if item.is_dir()), key=os.path.getmtime, default=None)


def folder_of(path: str) -> Path:
    """Where a checkpoint is: its path, or, for a hub model, its folder in the local cache."""
    folder = Path(path).expanduser()
    return folder if folder.exists() else hub_snapshot(path) or folder


def read_config(path: str) -> dict[str, Any] | None:
    """The checkpoint's config.json, or None where there is none that can be read."""
    folder = folder_of(path)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def context_length(path: str) -> int | None:
    """The longest context, in tokens, that config.json states for the (language) model."""
    text = language_config(read_config(path) or {})
    names = (
        "max_position_embeddings",
        "max_sequence_length",
        "seq_length",
        "n_positions",
        "model_max_length",
    )
    return next((int(text[name]) for name in names if isinstance(text.get(name), int)), None)
