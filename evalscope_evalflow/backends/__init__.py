"""The stock backends that EvalFlow wraps."""

from evalscope_evalflow.backends.base import Backend, DatasetResult, Metric, Saved, Stamps
from evalscope_evalflow.backends.native.native_backend import Native
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_backend import VLMEvalKit
from evalscope_evalflow.errors import ConfigError, Problem

__all__ = ["Backend", "DatasetResult", "Metric", "Saved", "Stamps", "load_backend"]

_BACKENDS = {backend.name: backend for backend in (Native, VLMEvalKit)}


def load_backend(name: str) -> Backend:
    """The backend of this name, as in the section's `backend`.

    Raises:
        ConfigError: this version does not run it.
    """
    if name not in _BACKENDS:
        raise ConfigError(
            Problem(
                "evalflow.backend",
                f"{name} is not run by this version yet",
                "Set `backend: Native` in the section (--eval_backend Native).",
            )
        )
    return _BACKENDS[name]()
