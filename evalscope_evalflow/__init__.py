"""EvalFlow: deploy a model, evaluate it with EvalScope, leave nothing behind.

Importing this package attaches it to EvalScope (at once if `evalscope` is imported, else when it will be)
and imports nothing heavy: the names below are loaded when they are first used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

__all__ = [
    "ConfigError",
    "DeployConfig",
    "Endpoint",
    "EngineError",
    "EvalFlowError",
    "FlowConfig",
    "ModelConfig",
    "Stopped",
    "WorkerError",
    "__version__",
    "demo_task",
    "deploy",
    "load",
    "release_kept",
]

if TYPE_CHECKING:
    from evalscope_evalflow.cli.demo import demo_task
    from evalscope_evalflow.config import DeployConfig, FlowConfig, ModelConfig
    from evalscope_evalflow.errors import ConfigError, EngineError, EvalFlowError, Stopped, WorkerError
    from evalscope_evalflow.results.loaded import load
    from evalscope_evalflow.serving import Endpoint, deploy, release_kept

_HOMES = {
    "ConfigError": "errors",
    "DeployConfig": "config",
    "Endpoint": "serving",
    "EngineError": "errors",
    "EvalFlowError": "errors",
    "FlowConfig": "config",
    "ModelConfig": "config",
    "Stopped": "errors",
    "WorkerError": "errors",
    "demo_task": "cli.demo",
    "deploy": "serving",
    "load": "results.loaded",
    "release_kept": "serving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


def _attach() -> None:
    from contextlib import suppress

    with suppress(ModuleNotFoundError):  # not installed, but run from its source tree
        import evalscope_evalflow_startup as shim  # type: ignore[import-untyped, import-not-found, unused-ignore]

        shim.install()


_attach()
