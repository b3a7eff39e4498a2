"""Matches of a pattern that are no whole checkpoints, such as one that training is writing just now."""

from __future__ import annotations

import os
from dataclasses import replace

from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.engines import adapters
from evalscope_evalflow.engines.checkpoints import checkpoint_folder, gguf
from evalscope_evalflow.errors import ConfigError, Problem

_SHOWN = 5


def without_incomplete(task: Task) -> tuple[Task, dict[str, str]]:
    """The task without the matches of patterns that are no whole checkpoints.

    Models that are named one by one stay: what is wrong with them is preflight's to say.

    Args:
        task: the task, as it was written.

    Returns:
        The task, and why each of the others was left out, by the model's name; nothing with `on_incomplete: refuse`.

    Raises:
        ConfigError: nothing is left, or `on_incomplete: refuse` and something is incomplete.
    """
    matched = [model for model in task.models if model.pattern and task.flow.mode != "judge"]
    found = {model.name: why for model in matched if (why := why_incomplete(model))}
    if not found:
        return task, {}
    left = [model for model in task.models if model.name not in found]
    if left and task.flow.on_incomplete == "skip":
        flow = task.flow.model_copy(update={"models": left})
        return replace(task, flow=flow, models=tuple(left)), found
    patterns = ", ".join(dict.fromkeys(str(model.pattern) for model in matched if model.name in found))
    first = "; ".join(list(found.values())[:_SHOWN])
    more = f" (and {len(found) - _SHOWN} more)" if len(found) > _SHOWN else ""
    raise ConfigError(
        Problem(
            "evalflow.models",
            f"{len(found)} of the {len(matched)} matches of {patterns} are no checkpoints: {first}{more}",
            f"{'Set on_incomplete: skip' if left else 'Make the pattern narrower'}, or move them away.",
        )
    )


def why_incomplete(model: ModelConfig) -> str:
    """Why a match cannot be loaded yet, in words; empty if it can."""
    if model.adapter and not model.adapter.lower().endswith(".gguf"):
        try:
            adapters.read(model.adapter)
        except (ValueError, OSError) as error:
            return str(error)
        return ""
    path = user_path(str(model.adapter or model.path))
    if os.path.isfile(path):
        try:
            why = gguf.why_not_whole(path)
        except (ValueError, OSError) as error:
            why = str(error)
        return f"{path} is not whole: {why}" if why else ""
    return next((problem.what for problem in checkpoint_folder.check(str(path))), "")
