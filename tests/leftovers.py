"""Looking for what should not be there any more."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_MARK = "EVALFLOW_TEST_OF"


def marked(folder: Path) -> dict[str, str]:
    """The environment for a command whose processes are to be found again, whatever other tests run beside it.

    Args:
        folder: the test's own.
    """
    return {**os.environ, _MARK: str(folder)}


def left_of(folder: Path) -> list[psutil.Process]:
    """Living processes that descend from a command with the environment `marked(folder)`, and those of the engines that
    it deployed.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == str(folder):
                found.append(process)
        except psutil.Error:  # it has ended, or is another user's
            continue
    return found


def servers_of(model: Path) -> set[int]:
    """PIDs of every process of this machine that was told to serve a model."""
    return {p.pid for p in psutil.process_iter(["cmdline"]) if str(model) in (p.info["cmdline"] or [])}
