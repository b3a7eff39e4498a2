"""Executors by name: ours and those of other packages, from the entry-point group `evalflow.executors`."""

from __future__ import annotations

from importlib.metadata import entry_points

from evalscope_evalflow.errors import ConfigError, Problem, nearest
from evalscope_evalflow.sweep.executors.base import Executor

__all__ = ["GROUP", "Executor", "load_executor"]

GROUP = "evalflow.executors"


def load_executor(name: str) -> type[Executor]:
    """The executor of this name.

    Raises:
        ConfigError: there is none, or its package is broken.
    """
    where = "evalflow.executor"
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        listed = f"Known: {', '.join(sorted(known))}"
        raise ConfigError(
            Problem(where, f"unknown executor {name!r}", f"{nearest(name, list(known))} {listed}".strip())
        )
    try:
        found: type[Executor] = known[name].load()
    except Exception as error:
        raise ConfigError(
            Problem(where, f"executor {name!r} cannot be loaded from {known[name].value}: {error!r}")
        ) from error
    return found
