"""Executors by name: ours and those of other packages, from the entry-point group `evalflow.executors`."""

from __future__ import annotations

from evalscope_evalflow.config import plugins as entries
from evalscope_evalflow.sweep.executors.base import Executor

__all__ = ["GROUP", "Executor", "load_executor"]

GROUP = "evalflow.executors"


def load_executor(name: str) -> type[Executor]:
    """The executor of this name.

    Raises:
        ConfigError: there is none, or its package is broken.
    """
    found: type[Executor] = entries.load(GROUP, name, what="executor", where="evalflow.executor")
    return found
