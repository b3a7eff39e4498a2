"""Who has a run folder: `evalflow/run.lock` in it is locked as long as a run uses it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path

from filelock import Timeout

from evalscope_evalflow.config.file_locks import locked
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.state import record


def folder_in_use(folder: Path) -> Problem:
    """What to say of a run folder that another run has locked."""
    found = record.read(folder) or {}
    if found.get("state") != "running":  # it has only just begun, or a process outlived it
        return Problem("work_dir", f"{folder} is in use by another run", "Wait for it, or choose another folder.")
    who = f"{found.get('run_id')} (PID {found.get('pid')} on {found.get('host')}, since {found.get('started')})"
    return Problem(
        "work_dir",
        f"{folder} is in use by another run: {who}",
        f"Wait for it (`evalflow ps`), end it (`evalflow stop {found.get('run_id')}`), or choose another folder.",
    )


def refuse_by_record(folder: Path) -> None:
    """Where the file system has no locks: by what the record says, as far as this machine can tell who lives.

    Raises:
        Timeout: another process of this machine is at it.
    """
    found = record.read(folder) or {}
    if found.get("state") == "running" and found.get("host") == platform.node() and found.get("pid") != os.getpid():
        raise Timeout(str(folder))


def refuse_folders_in_use(folders: Iterable[Path]) -> None:
    """Check, before anything starts, that no other run has one of these run folders.

    Raises:
        ConfigError: with each that is in use, and by whom.
    """
    problems = []
    for folder in folders:
        path = folder / "evalflow" / "run.lock"
        if not path.exists():
            continue
        try:
            with locked(path, 0) as held:
                if not held:
                    refuse_by_record(folder)
        except Timeout:
            problems.append(folder_in_use(folder))
    if problems:
        raise ConfigError(*problems)
