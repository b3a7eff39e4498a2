"""Engines by name: ours and those of other packages, from the entry-point group `evalflow.engines`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint

from evalscope_evalflow.config import AUTO, DeployConfig, ModelConfig, plugins
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines.adapters import is_whole
from evalscope_evalflow.engines.base import (
    HONOURABLE,
    INTERFACE_VERSION,
    KEY_VARIABLE,
    Address,
    Command,
    Counters,
    Engine,
    LogPattern,
    ParserSource,
    absolute_path,
)
from evalscope_evalflow.engines.checkpoints.checkpoint_location import is_gguf, locate
from evalscope_evalflow.engines.known_versions import version_note
from evalscope_evalflow.engines.launchers import key_launcher
from evalscope_evalflow.engines.llamacpp import LlamaCpp
from evalscope_evalflow.engines.options.extra_args import check_extra_args, check_variables
from evalscope_evalflow.engines.remote import Remote
from evalscope_evalflow.engines.vllm import VLLM
from evalscope_evalflow.errors import Problem

__all__ = [
    "GROUP",
    "HONOURABLE",
    "INTERFACE_VERSION",
    "KEY_VARIABLE",
    "Address",
    "Command",
    "Counters",
    "Engine",
    "LogPattern",
    "ParserSource",
    "absolute_path",
    "check_engine",
    "command_of",
    "default_engine",
    "key_launcher",
    "known_engines",
    "load_engine",
    "resolve_engine",
    "version_note",
]

GROUP = "evalflow.engines"
RENAMED_ATTRIBUTES = {  # of an Engine, since version 1
    "rules": "log_patterns",
    "module": "modules",
    "package": "requirement",
    "settings": "reserved_options",
    "variables": "reserved_variables",
}


def known_engines() -> dict[str, EntryPoint]:
    """Every installed engine, by name; none is loaded."""
    return plugins.known(GROUP)


def load_engine(name: str, where: str = "deploy.engine") -> Engine:
    """The engine of this name.

    Raises:
        ConfigError: there is none, its package is broken, or it was written for another version of the interface.
    """
    found = plugins.load(
        GROUP, name, what="engine", where=where, interface_version=INTERFACE_VERSION, renamed=RENAMED_ATTRIBUTES
    )
    return found()  # type: ignore[no-any-return]


def resolve_engine(model: ModelConfig, deploy: DeployConfig) -> Engine:
    """The engine for a model: the one that is named, or the default one.

    Raises:
        ConfigError: there is no such engine, or it cannot be loaded.
    """
    return load_engine(default_engine(model.path, model.api_url) if deploy.engine == AUTO else deploy.engine)


def default_engine(path: str | None, api_url: str | None = None) -> str:
    """The name of the engine for a model, where the user names none."""
    if api_url:
        return Remote.name
    return LlamaCpp.name if path and is_gguf(path) else VLLM.name


def command_of(engine: Engine, model: ModelConfig, deploy: DeployConfig, address: Address, env: Environment) -> Command:
    """How to run an engine: its own `command`, with paths that hold in the folder in which it will run.

    Args:
        engine: what serves the model.
        model: the model; its path may be relative to the current folder, or begin with `~`.
        deploy: settings with devices and parallelism decided; the same holds for the path of a chat template.
        address: where to listen, and the key to ask for.
        env: environment that has the engine.
    """
    if model.path:
        model = model.model_copy(update={"path": absolute_path(str(locate(model.path)))})
    adapters = {
        name: absolute_path(str(locate(path)))
        for name, path in sorted(model.served_adapters.items())
        if name == model.name or is_whole(path)  # one that was deleted meanwhile must not keep the others from starting
    }
    if adapters:
        own = model.adapter and adapters[model.name]
        model = model.model_copy(update={"adapters": adapters, "adapter": own, "base_name": model.engine_name})
    if deploy.chat_template:
        deploy = deploy.model_copy(update={"chat_template": absolute_path(deploy.chat_template)})
    return engine.command(model, deploy, address, env)


def check_engine(
    engine: Engine,
    model: ModelConfig,
    deploy: DeployConfig,
    notify: Callable[[str], None] | None = None,
    seen: set[str] | None = None,
) -> Iterable[Problem]:
    """Everything that is wrong with serving this model so; no engine is started.

    Args:
        engine: what shall serve it.
        model: what is served.
        deploy: how.
        notify: receives a line about what takes longer than a moment.
        seen: environments that were looked at for other models; this one is added, and looked at only if it is new.
    """
    yield from engine.check(model, deploy)
    if model.adapter and not engine.most_adapter_rank:
        others = "vllm, lmdeploy and llamacpp do"
        what = f"{engine.name} serves no adapters by their names ({model.adapter})"
        yield Problem(f"model {model.name}", what, f"Choose another engine ({others}), or merge it into its base.")
    if engine.local:
        yield from engine.check_settings(deploy)
    yield from engine.check_keys(deploy)
    yield from check_variables(engine, deploy)
    environment = repr((engine.name, deploy.env, deploy.extra_args))
    if seen is not None and environment in seen:
        return
    if seen is not None:
        seen.add(environment)
    missing = list(engine.check_installed(deploy))
    yield from missing
    if engine.local and not missing:
        yield from check_extra_args(engine, deploy, notify)
