"""Finds what is to be replaced in VLMEvalKit's modules, and replaces it under every name that it has there."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any


def seam(module: Any, name: str) -> Any:
    """What is to be replaced.

    Raises:
        RuntimeError: this version of VLMEvalKit has nothing of that name.
    """
    if not hasattr(module, name):
        raise missing(f"{module.__name__}.{name}")
    return getattr(module, name)


def missing(what: str) -> RuntimeError:
    """The error for a version of VLMEvalKit that lacks what has to be patched."""
    version = importlib.metadata.version("ms-vlmeval")
    return RuntimeError(
        f"ms-vlmeval {version} has no {what}: the extra `vlmeval` of evalscope-evalflow has a version that fits"
    )


def replace_everywhere(function: Any, ours: Any) -> None:
    """Replace a function under every name that VLMEvalKit's modules have imported it by."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "vlmeval" and module is not None:
            for attribute, value in list(vars(module).items()):
                if value is function:
                    setattr(module, attribute, ours)


def call(func: Any, task: Any) -> Any:
    """Call a function as VLMEvalKit's `track_progress_rich` does: a task is its arguments."""
    if isinstance(task, dict):
        return func(**task)
    return func(*task) if isinstance(task, (tuple, list)) else func(task)


def without_reuse(run: Any) -> None:
    """Keep `vlmeval.run` from bringing back files of other folders, and from passing over incomplete answers.

    Args:
        run: the module.
    """
    seam(run, "prepare_reuse_files")
    run.prepare_reuse_files = lambda **_: {"source_eval_id": None, "prediction_complete": True}
    if hasattr(run, "is_prediction_complete"):  # since ms-vlmeval 0.0.20, which scores no dataset with a gap
        run.is_prediction_complete = lambda *_, **__: True
