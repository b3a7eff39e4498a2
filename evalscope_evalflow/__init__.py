"""EvalFlow: deploy a model, evaluate it with EvalScope, leave nothing behind.

Importing this package attaches it to EvalScope (at once if `evalscope` is imported, else when it will be)
and imports nothing heavy: the names below are loaded when they are first used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

__all__ = [
    "ConfigError",
    "Endpoint",
    "EngineError",
    "EvalFlowError",
    "FlowConfig",
    "WorkerError",
    "__version__",
    "deploy",
    "release_kept",
]

if TYPE_CHECKING:
    from evalscope_evalflow.config import FlowConfig
    from evalscope_evalflow.errors import ConfigError, EngineError, EvalFlowError, WorkerError
    from evalscope_evalflow.serving import Endpoint, deploy, release_kept

_HOMES = {
    "FlowConfig": "config",
    "ConfigError": "errors",
    "EngineError": "errors",
    "EvalFlowError": "errors",
    "WorkerError": "errors",
    "Endpoint": "serving",
    "deploy": "serving",
    "release_kept": "serving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def _attach() -> None:
    from contextlib import suppress

    with suppress(ModuleNotFoundError):  # not installed, but run from its source tree
        import evalscope_evalflow_startup as shim  # type: ignore[import-untyped, import-not-found, unused-ignore]

        shim.install()


_attach()
