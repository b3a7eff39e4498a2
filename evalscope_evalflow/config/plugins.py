"""Plug-ins of other packages, by their entry points: listed from metadata, loaded on request."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from evalscope_evalflow.errors import ConfigError, Problem, nearest


def known(group: str) -> dict[str, EntryPoint]:
    """Every entry of a group, by name; none is loaded."""
    return dict(_known(group, tuple(sys.path)))


@lru_cache(maxsize=8)
def _known(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in _installed(path).select(group=group)}


@lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> Any:  # EntryPoints; up to Python 3.11, SelectableGroups
    """All entry points, read once for each module path: it costs 40 ms in an environment with 200 packages."""
    return entry_points()


def load(
    group: str,
    name: str,
    *,
    what: str,
    where: str,
    interface_version: int | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Any:
    """The object that an entry point names.

    Args:
        group: the group of entry points.
        name: the entry's.
        what: the kind of plug-in, for messages.
        where: the setting that names it.
        interface_version: the version of the interface that this EvalFlow offers. A plug-in that declares another in
            its attribute `interface_version` is refused; one that declares none counts as written for this one.
        renamed: attributes of earlier versions, and what they are called now. A class of a plug-in that still
            defines one of them is refused, as it would be ignored without a word.

    Raises:
        ConfigError: there is no such entry, its package is broken, or it was written for another version.
    """
    if name not in known(group):
        _forget()  # it may just have been installed, from a notebook
    found = known(group)
    if name not in found:
        listed = f"Known: {', '.join(sorted(found))}"
        raise ConfigError(Problem(where, f"unknown {what} {name!r}", f"{nearest(name, list(found))} {listed}".strip()))
    entry = found[name]
    try:
        plugin = entry.load()
    except Exception as error:
        raise ConfigError(Problem(where, f"{what} {name!r} cannot be loaded from {entry.value}: {error!r}")) from error
    if interface_version is not None:
        _check_version(plugin, entry, what, where, interface_version, renamed or {})
    return plugin


def _forget() -> None:
    _known.cache_clear()
    _installed.cache_clear()


def _check_version(
    plugin: Any, entry: EntryPoint, what: str, where: str, offered: int, renamed: Mapping[str, str]
) -> None:
    """Refuse a plug-in that was written for another version of its interface.

    Raises:
        ConfigError: naming the package, both versions, and what to do.
    """
    written_for = getattr(plugin, "interface_version", offered)
    if written_for != offered:
        newer = isinstance(written_for, int) and written_for > offered
        package = _package(entry)
        todo = "Upgrade evalscope-evalflow" if newer else f"Upgrade {entry.dist.name if entry.dist else 'its package'}"
        raise ConfigError(
            Problem(
                where,
                f"{what} {entry.name!r} of {package} was written for version {written_for} of the interface, "
                f"and this EvalFlow offers version {offered}",
                f"{todo}, or uninstall it.",
            )
        )
    old = [name for kind in getattr(plugin, "__mro__", ()) for name in vars(kind) if name in renamed]
    if old:
        names = ", ".join(f"{name} (now {renamed[name]})" for name in dict.fromkeys(old))
        raise ConfigError(
            Problem(
                where,
                f"{what} {entry.name!r} of {_package(entry)} was written for an earlier version of the interface than "
                f"{offered}: it defines {names}",
                f"Upgrade {entry.dist.name if entry.dist else 'its package'}; its author finds the new names in "
                "docs/migration.md.",
            )
        )


def _package(entry: EntryPoint) -> str:
    """The package of a plug-in and its version, which are read from its metadata anew each time: for messages."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
