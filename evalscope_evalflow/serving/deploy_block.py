"""`deploy`: a model served for the length of a `with` block."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_log_path
from pydantic import SecretStr

from evalscope_evalflow.config import AUTO, REMOTE, DeployConfig, FlowConfig, ModelConfig
from evalscope_evalflow.config.keys import reveal
from evalscope_evalflow.devices.placement_check import check_placement
from evalscope_evalflow.engines import check_engine, resolve_engine, version_note
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.processes.registry import new_run_id
from evalscope_evalflow.serving.deployment import Deployment
from evalscope_evalflow.serving.remote_api import check_api
from evalscope_evalflow.terminal_text import printable


def deploy(
    model: str | Path | ModelConfig | None = None,
    *,
    name: str | None = None,
    api_url: str | None = None,
    log_dir: str | Path | None = None,
    engine: str = AUTO,
    env: str | Path | None = None,
    env_vars: Mapping[str, str] | None = None,
    devices: str | int | Sequence[str | int] | None = AUTO,
    tensor_parallel: int | Literal["auto"] = AUTO,
    data_parallel: int | Literal["auto"] = AUTO,
    max_model_len: int | None = None,
    max_num_seqs: int | None = None,
    chat_template: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    api_key: str | SecretStr | None = None,
    extra_args: Sequence[str] = (),
    max_restarts: int = 2,
    stall_timeout_s: float = 300,
    keep_alive_s: float = 0,
    swap: Literal["auto", "never"] = AUTO,
) -> Deployment:
    """Serve a model for the length of a `with` block.

    Args:
        model: checkpoint folder or .gguf file; for engine remote, the model's name; or a ModelConfig.
        name: served model name; default: the last part of `model`.
        api_url: base URL of an API that runs elsewhere, for engine remote.
        log_dir: folder for `engine.log`; default: a new one in the user's log folder.
        engine: vllm, lmdeploy, sglang, llamacpp, remote, or the name of an `evalflow.engines` entry point; auto:
            llamacpp for a .gguf file, remote where there is an `api_url`, else vllm.
        env: conda prefix, venv or uv environment that has the engine; default: this interpreter's.
        env_vars: environment variables for the engine.
        devices: devices that the engine may use, such as "0,1" or [0, 1]; auto: as many of the idle ones as it needs;
            all: every device of this machine; "": none, for an engine on CPUs.
        tensor_parallel: devices that share a replica; auto: as few as hold the weights and a sequence's KV cache.
        data_parallel: replicas of the model; auto: on all of `devices`.
        max_model_len: context length in tokens; default: the model's own.
        max_num_seqs: sequences served at once; default: the engine's.
        chat_template: chat template, in the form that the engine takes; default: the model's own.
        host: address that the engine binds.
        port: port, or the next free one; default: any free one.
        api_key: key that the engine shall ask for, by default a random one; for engine remote, the API's key. A
            `${VARIABLE}` reference is read from the environment.
        extra_args: more arguments for the engine, as they are.
        max_restarts: how often an engine that dies in the midst of a run is started again; a block starts none again.
        stall_timeout_s: seconds without any progress (log, CPU time) after which a start is given up.
        keep_alive_s: seconds that the engine is kept after the block; the next block or task in this process that wants
            the same engine within that time has it at once.
        swap: whether an engine that is kept may take the weights of a model that differs in nothing else; never: it
            serves this model alone.

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
    settings = _given(
        engine=engine, env=env, env_vars=env_vars, devices=devices, tensor_parallel=tensor_parallel,
        data_parallel=data_parallel, max_model_len=max_model_len, max_num_seqs=max_num_seqs,
        chat_template=chat_template, host=host, port=port, api_key=api_key, extra_args=list(extra_args),
        max_restarts=max_restarts, stall_timeout_s=stall_timeout_s, keep_alive_s=keep_alive_s, swap=swap,
    )  # fmt: skip
    flow = FlowConfig.parse(_section(model, name, api_url, settings), where="deploy()")
    return _deployment(flow.models[0], flow.deploy_for(flow.models[0]), log_dir)


def _given(**settings: Any) -> dict[str, Any]:
    """The settings that are not at their defaults."""
    defaults = DeployConfig().model_dump()
    return {name: value for name, value in settings.items() if value is not None and value != defaults[name]}


def _section(
    model: str | Path | ModelConfig | None, name: str | None, api_url: str | None, settings: dict[str, Any]
) -> dict[str, Any]:
    """The section that says the same as the arguments of `deploy`.

    Raises:
        ConfigError: there is no model.
    """
    target: dict[str, Any] = {}
    if isinstance(model, ModelConfig):
        target = model.model_dump(exclude_unset=True)
        model = target.get("path") or target["name"]
    if not (model or name or api_url):
        what = "Give a checkpoint folder or a .gguf file, or an api_url and the model's name there."
        raise ConfigError(Problem("deploy()", "no model is given", what))
    url = api_url or target.get("api_url")
    if url or settings.get("engine") == REMOTE:
        key = settings.pop("api_key", None)
        settings = {**settings, "engine": REMOTE}
        target |= {"api_url": url, **({"api_key": key} if key is not None else {})}
    else:
        target["path"] = model
    target["name"] = name or target.get("name") or os.path.basename(str(model or "").rstrip("/")) or "model"
    return {"deploy": {**target.pop("deploy", {}), **settings}, "models": [target]}


def _deployment(config: ModelConfig, settings: DeployConfig, log_dir: str | Path | None) -> Deployment:
    """Check that it can work, before anything starts.

    Raises:
        ConfigError: it cannot.
    """
    chosen = resolve_engine(config, settings)
    problems = list(
        check_engine(
            chosen, config, settings, notify=lambda text: print(f"evalflow: {printable(text)}", file=sys.stderr)
        )
    )
    if chosen.local:
        problems += check_placement(chosen, config, settings, warnings.warn)
        note = version_note(chosen, settings)
        if note and not problems:
            warnings.warn(note, stacklevel=3)
    if not problems and config.api_url and not chosen.local:
        found = check_api("api_url", config.api_url, reveal(config.api_key), config.name)
        problems += [found] if found else []
    if problems:
        raise ConfigError(*problems)
    run_id = new_run_id()
    folder = Path(log_dir) if log_dir is not None else user_log_path("evalflow") / run_id
    return Deployment(chosen, config, settings, log=folder / "engine.log", run_id=run_id)
