"""The stock backends of EvalScope that EvalFlow runs: ours, and those of packages, by `evalflow.backends`."""

from evalscope_evalflow.backends.base import INTERFACE_VERSION, Backend, Saved, Stamps, move_to
from evalscope_evalflow.backends.dataset_result import DatasetResult, Metric
from evalscope_evalflow.backends.sample import Sample
from evalscope_evalflow.backends.score import Score
from evalscope_evalflow.config import plugins

__all__ = [
    "GROUP",
    "INTERFACE_VERSION",
    "Backend",
    "DatasetResult",
    "Metric",
    "Sample",
    "Saved",
    "Score",
    "Stamps",
    "known_backends",
    "load_backend",
    "move_to",
]

GROUP = "evalflow.backends"


def known_backends() -> list[str]:
    """The names of every installed backend; none is loaded."""
    return list(plugins.known(GROUP))


def load_backend(name: str) -> Backend:
    """The backend of this name, as in the section's `backend`.

    Raises:
        ConfigError: there is none, its package is broken, or it was written for another version of the interface.
    """
    kind: type[Backend] = plugins.load(
        GROUP, name, what="backend", where="evalflow.backend", interface_version=INTERFACE_VERSION
    )
    return kind()
