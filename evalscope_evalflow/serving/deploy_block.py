"""`deploy`: a model served for the length of a `with` block."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

from platformdirs import user_log_path

from evalscope_evalflow.config.keys import reveal
from evalscope_evalflow.devices.placement import check_placement
from evalscope_evalflow.engines import check_engine, resolve_engine
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.processes.registry import new_run_id
from evalscope_evalflow.serving.deployment import Deployment
from evalscope_evalflow.serving.remote_api import check_api


def deploy(
    model: str | None = None,
    *,
    engine: str = "auto",
    name: str | None = None,
    api_url: str | None = None,
    log_dir: str | Path | None = None,
    **options: Any,
) -> Deployment:
    """Serve a model for the length of a `with` block.

    Args:
        model: checkpoint folder or .gguf file; for engine remote, the model's name.
        engine: vllm, lmdeploy, llamacpp, remote, or the name of an `evalflow.engines` entry point; auto chooses by
            the model.
        name: served model name; default: the last part of `model`.
        api_url: base URL, for engine remote.
        log_dir: folder for `engine.log`; default: a new one in the user's log folder.
        **options: any other key of the section's `deploy`, such as `max_model_len=4096`, `env="/opt/venv"`, or
            `keep_alive_s=300`, with which the next block that wants the same engine within 300 s has it at once.

    Returns:
        A context manager that gives an Endpoint.

    Raises:
        ConfigError: it cannot work; nothing was started.
        EngineError: on entering: the engine did not become ready; on leaving: it has ended meanwhile, or is not gone.
        Stopped: on leaving: `evalflow stop` has ended it. An error of the block's own goes before either.

    Example:
        >>> with deploy("model.gguf") as endpoint:
        ...     endpoint.client().models.list()
    """
    from evalscope_evalflow.config import FlowConfig

    if not (model or name or api_url):
        what = "Give a checkpoint folder or a .gguf file, or an api_url and the model's name there."
        raise ConfigError(Problem("deploy()", "no model is given", what))
    remote = bool(api_url) or engine == "remote"
    key = options.pop("api_key", None)
    section: dict[str, Any] = {"deploy": {**options, "engine": "remote" if remote else engine}}
    target = {"api_url": api_url, "api_key": key} if remote else {"path": model}
    if not remote and key is not None:
        section["deploy"]["api_key"] = key
    section["models"] = [{"name": name or os.path.basename(str(model or "").rstrip("/")) or "model", **target}]
    flow = FlowConfig.parse(section, where="deploy()")
    config, settings = flow.models[0], flow.deploy
    chosen = resolve_engine(config, settings)
    problems = list(
        check_engine(chosen, config, settings, notify=lambda text: print(f"evalflow: {text}", file=sys.stderr))
    )
    if chosen.local:
        problems += check_placement(chosen, config, settings, warnings.warn)
    if not problems and config.api_url and not chosen.local:
        found = check_api("api_url", config.api_url, reveal(config.api_key), config.name)
        problems += [found] if found else []
    if problems:
        raise ConfigError(*problems)
    run_id = new_run_id()
    folder = Path(log_dir) if log_dir is not None else user_log_path("evalflow") / run_id
    return Deployment(chosen, config, settings, log=folder / "engine.log", run_id=run_id)
