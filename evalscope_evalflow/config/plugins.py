"""What packages bring, by entry points: listed from metadata, loaded when it is asked for."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from evalscope_evalflow.errors import ConfigError, Problem, nearest


def known(group: str) -> dict[str, EntryPoint]:
    """Every entry of a group, by name; none is loaded."""
    return dict(_known(group, tuple(sys.path)))


@lru_cache(maxsize=8)
def _known(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """The same, once for each module path: looking costs 40 ms in an environment with 200 packages."""
    return {entry.name: entry for entry in entry_points(group=group)}


def load(group: str, name: str, *, what: str, where: str) -> Any:
    """What an entry stands for.

    Args:
        group: the group of entry points.
        name: the entry's.
        what: the kind of thing that it is, for messages.
        where: the setting that names it.

    Raises:
        ConfigError: there is none, or its package is broken.
    """
    if name not in known(group):
        _known.cache_clear()  # it may just have been installed, from a notebook
    found = known(group)
    if name not in found:
        listed = f"Known: {', '.join(sorted(found))}"
        raise ConfigError(Problem(where, f"unknown {what} {name!r}", f"{nearest(name, list(found))} {listed}".strip()))
    try:
        return found[name].load()
    except Exception as error:
        raise ConfigError(
            Problem(where, f"{what} {name!r} cannot be loaded from {found[name].value}: {error!r}")
        ) from error
