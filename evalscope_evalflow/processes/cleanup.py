"""Cleaning up after runs whose owner and guards are dead: the next start of anything of ours does it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from evalscope_evalflow.config.file_locks import locked
from evalscope_evalflow.processes import guard, orphans, registry
from evalscope_evalflow.processes.registry import Entry
from evalscope_evalflow.processes.supervised import GUARD


@dataclass(frozen=True)
class Cleaned:
    """What was done about one dead run.

    Attributes:
        entry: it.
        ended: names of its processes, by PID, that were killed.
        paths: folders, and files in /dev/shm, that were removed.
        left: PIDs that survive SIGKILL, or whose folder could not be removed.
    """

    entry: Entry
    ended: dict[int, str]
    paths: list[Path]
    left: list[int]

    def __str__(self) -> str:
        processes = ", ".join(f"{name} ({pid})" for pid, name in self.ended.items())
        did = [f"ended {processes}"] if processes else []
        did += [f"removed {path}" for path in self.paths]
        if self.left:
            did.append(f"PIDs {', '.join(map(str, self.left))} survive SIGKILL")
        where = f" in {self.entry.work_dir}" if self.entry.work_dir else ""
        return f"run {self.entry.run_id} ({self.entry.model}{where}) had died: " + (
            "; ".join(did) or "nothing of it was left but its entry"
        )


def stale() -> list[Entry]:
    """Runs that nobody cares for any more.

    Raises:
        OSError: the registry cannot be read.
    """
    return [entry for entry in registry.entries() if entry.state == "stale"]


def clean(wait_s: float = 0) -> list[Cleaned]:
    """End what dead runs have left behind. With nothing to do it takes a millisecond.

    Args:
        wait_s: how long to wait for another process that is at it; 0: leave it to that one.

    Raises:
        OSError: the registry cannot be read.
    """
    registry.remove_unfinished()
    if not stale():
        return []
    try:
        with locked(registry.folder() / "clean.lock", wait_s):
            return [_clean(entry) for entry in stale() if not _has_guard(entry)]
    except Timeout:
        return []


def _has_guard(entry: Entry) -> bool:
    """Whether a guard of it lives that its owner had no time to write down."""
    if entry.boot != registry.boot_id():
        return False
    ours = orphans.of_run(*(command.run_id for command in entry.commands.values()))
    return any(_is_guard(process.pid) for process in ours)


def _is_guard(pid: int) -> bool:
    try:
        return os.fsencode(GUARD) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:4]
    except OSError:
        return False


def _clean(entry: Entry) -> Cleaned:
    ended: dict[int, str] = {}
    left: list[int] = []
    folders = [command.scratch for command in entry.commands.values() if _is_ours(command.scratch)]
    memory: list[str] = []
    if entry.boot == registry.boot_id() and entry.commands:
        ended, left = orphans.end({command.run_id: command.scratch for command in entry.commands.values()})
        memory = guard.remove_shared_memory(set().union(*map(orphans.noted_shared_memory, folders)))
    for folder in folders:
        orphans.remove_scratch(folder)
    if not left:
        registry.path_of(entry.run_id).unlink(missing_ok=True)
    return Cleaned(entry, ended, [*folders, *map(Path, memory)], left)


def _is_ours(folder: Path) -> bool:
    """Whether it is a private folder of a command."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return folder.name.startswith("evalflow-") and stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
