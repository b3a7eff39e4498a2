"""Engines by name: ours and those of other packages, from the entry-point group `evalflow.engines`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint

from evalscope_evalflow.config import AUTO, DeployConfig, ModelConfig, plugins
from evalscope_evalflow.engines.base import (
    INTERFACE_VERSION,
    Address,
    Command,
    Counters,
    Engine,
    LogPattern,
    ParserSource,
)
from evalscope_evalflow.engines.options.extra_args import check_extra_args, check_variables
from evalscope_evalflow.errors import Problem

__all__ = [
    "GROUP",
    "INTERFACE_VERSION",
    "Address",
    "Command",
    "Counters",
    "Engine",
    "LogPattern",
    "ParserSource",
    "check_engine",
    "known_engines",
    "load_engine",
    "resolve_engine",
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
    """The engine for a model: the one that is named, or the one that its kind suggests."""
    if deploy.engine != AUTO:
        return load_engine(deploy.engine)
    if model.api_url:
        return load_engine("remote")
    return load_engine("llamacpp" if (model.path or "").endswith(".gguf") else "vllm")


def check_engine(
    engine: Engine,
    model: ModelConfig,
    deploy: DeployConfig,
    say: Callable[[str], None] | None = None,
    seen: set[str] | None = None,
) -> Iterable[Problem]:
    """Everything that is wrong with serving this model so; no engine is started.

    Args:
        engine: what shall serve it.
        model: what is served.
        deploy: how.
        say: is told of what takes longer than a moment.
        seen: environments that were looked at for other models; this one is added, and looked at only if it is new.
    """
    yield from engine.check(model, deploy)
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
        yield from check_extra_args(engine, deploy, say)
