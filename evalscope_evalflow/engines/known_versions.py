"""Versions of engines that this EvalFlow was checked against: their options, their environment and their words."""

from __future__ import annotations

import re

from evalscope_evalflow.config import DeployConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines.base import Engine


def version_note(engine: Engine, deploy: DeployConfig) -> str | None:
    """A sentence about an engine whose version is outside of those that were checked; None if nothing has to be said.

    Args:
        engine: the engine.
        deploy: its settings, which name its environment.
    """
    if engine.checked_versions is None:
        return None
    try:
        version = engine.version(Environment.find(deploy.env))
    except FileNotFoundError:  # another check reports that
        return None
    oldest, newest = engine.checked_versions
    number = _number(version or "")
    if not number or _number(oldest) <= number <= _number(newest):
        return None
    which, than = ("newer", newest) if number > _number(newest) else ("older", oldest)
    return (
        f"{engine.name} {version} is {which} than {than}, and this EvalFlow was checked against {oldest} to {newest}: "
        "what it says of a failure may not be understood, and an option may be gone"
    )


def _number(version: str) -> tuple[int, ...]:
    """The first two parts of a version, which say whether anything but mistakes has changed; empty if it has none."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else ()
