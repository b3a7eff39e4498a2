"""Checkpoints in Hugging Face's layout: what their files tell before any weight is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.one_pass import remembered
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.engines.checkpoints import safetensors_headers as weights
from evalscope_evalflow.engines.checkpoints.checkpoint_location import (
    HUB_NAME,
    gguf_files,
    huggingface_cache,
    is_gguf,
    locate,
)
from evalscope_evalflow.engines.checkpoints.shape import language_config
from evalscope_evalflow.errors import Problem
from evalscope_evalflow.events import any_json

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
ADAPTER_TODO = (
    "Give base and adapter: models: [{name: NAME, path: BASE, adapter: FOLDER}] (--eval_model_path BASE "
    "--eval_adapter_path FOLDER); or merge it (peft: merge_and_unload(), then save_pretrained()) and give that folder."
)


def check(path: str | None, where: str = "path") -> Iterable[Problem]:
    """Whether a path is a checkpoint: a folder with config.json and weights, or a model in the hub's cache."""
    if not path:
        yield Problem(where, "no checkpoint is given", "Set the folder of the checkpoint.")
        return
    folder = locate(path)
    if not os.path.exists(folder):
        yield _not_there(path, where)
    elif os.path.isfile(folder):
        yield from _file(path, folder, where)
    elif not os.path.isdir(folder):
        yield Problem(where, f"{path} is neither a file nor a folder", "Give the checkpoint's folder.")
    elif not os.path.isfile(folder / "config.json"):
        yield _no_checkpoint(path, folder, where)
    elif read_config(path) is None:
        yield Problem(where, f"{path} is no checkpoint: its config.json is not JSON")
    elif not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        todo = f"Download the rest: hf download {path}" if _is_hub_name(path) else ""
        yield Problem(where, f"{path} has a config.json, but no weights ({', '.join(_WEIGHTS)})", todo)
    else:
        try:
            weights.read(folder)
        except weights.Damaged as error:
            again = f"Download it again: hf download {path}" if _is_hub_name(path) else "Download or copy it again."
            yield Problem(where, f"{path} is damaged: {error}", again)
        except OSError as error:
            yield Problem(where, f"{error.filename} cannot be read: {error.strerror}")


def _not_there(path: str, where: str) -> Problem:
    full = os.path.abspath(os.path.expanduser(path))
    if not HUB_NAME.fullmatch(path):
        at = "" if full == path else f" (looked for at {full})"
        return Problem(where, f"{path} does not exist{at}", "Give the checkpoint's folder.")
    return Problem(
        where,
        f"{path} is neither a folder ({full}) nor in the Hugging Face cache ({huggingface_cache()})",
        f"Nothing is downloaded in a run. If it is a model on the hub: hf download {path}",
    )


def _file(path: str, file: Path, where: str) -> Iterable[Problem]:
    if is_gguf(path):
        what = (
            f"{path} is {'' if file.name == os.path.basename(path) else f'{file}, '}a GGUF file, which llamacpp serves"
        )
        yield Problem(where, what, "Leave `engine` out (--deploy_backend), or set it to llamacpp.")
    else:
        yield Problem(where, f"{path} is a file, not a checkpoint's folder", "A .gguf file is for engine llamacpp.")


def _no_checkpoint(path: str, folder: Path, where: str) -> Problem:
    adapter = read_adapter(folder)
    if adapter is not None:
        base = adapter.get("base_model_name_or_path")
        of = f" of {base}" if base else ""
        kind = adapter.get("peft_type") or "LoRA"
        return Problem(where, f"{path} is an adapter ({kind}){of}, not a checkpoint of its own", ADAPTER_TODO)
    files = gguf_files(folder)
    if len(files) > 1:
        listed = ", ".join(file.name for file in files[:5])
        return Problem(where, f"{path} holds {len(files)} GGUF models: {listed}", "Give the path of one of them.")
    inside = ", ".join(sorted(item.name for item in folder.iterdir())[:5]) or "nothing"
    return Problem(where, f"{path} is no checkpoint: it has no config.json (it holds {inside})")


def read_adapter(folder: Path) -> dict[str, Any] | None:
    """The adapter_config.json of an adapter's folder; None if it is none."""
    try:
        config = any_json.load_file(folder / "adapter_config.json", any_json.MOST_BYTES)
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def _is_hub_name(path: str) -> bool:
    return bool(HUB_NAME.fullmatch(path)) and not os.path.exists(user_path(path))


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


def read_config(path: str) -> dict[str, Any] | None:
    """The checkpoint's config.json, or None where there is none that can be read."""
    return remembered(("config.json", path), lambda: _read_config(locate(path)))


def _read_config(folder: Path) -> dict[str, Any] | None:
    try:
        config = any_json.load_file(folder / "config.json", any_json.MOST_BYTES)
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
