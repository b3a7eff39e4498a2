"""What to do when even the guard was killed: find the processes of a run, and end them.

They are found by the run's id in their environment, and by what the guard wrote down while it lived.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import psutil

from evalscope_evalflow.processes import guard

RUN_ID = "EVALFLOW_RUN_ID"
NOTES = "evalflow-notes.json"  # in a command's private folder
WAIT_S = 10.0


def of_run(*run_ids: str) -> list[psutil.Process]:
    """Living processes of this user whose environment names one of the runs, this process excepted."""
    found = []
    marks = {f"{RUN_ID}={run_id}".encode() for run_id in run_ids}
    for process in psutil.process_iter():
        try:
            environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if not marks.isdisjoint(environ) and process.pid != os.getpid():
            found.append(process)
    return found


def noted(scratch: Path) -> list[psutil.Process]:
    """Living processes that the guard of a command has written down; the start time tells whose the PID is now."""
    try:
        listed = [(int(pid), int(start)) for pid, start in json.loads((scratch / NOTES).read_text())["tree"]]
    except (OSError, ValueError, TypeError, KeyError):  # never written; the folder is the command's, too
        return []
    found = []
    for pid, start in listed:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)  # before the look at its start time: psutil then compares for us
            status = guard.stat(pid)
            if status is not None and status[2] == start and _lives(process):
                found.append(process)
    return found


def noted_shared_memory(scratch: Path) -> set[int]:
    """Inodes in /dev/shm that the guard of a command has written down."""
    try:
        return {int(inode) for inode in json.loads((scratch / NOTES).read_text())["shm"]}
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def end_run(run_id: str, scratch: Path | None = None) -> list[int]:
    """Kill the processes of a run, and children that they start meanwhile.

    Args:
        run_id: as it stands in their environment.
        scratch: the private folder of their command, with what its guard wrote down.

    Returns:
        PIDs that survive SIGKILL.
    """
    return end({run_id: scratch})[1]


def end(runs: dict[str, Path | None]) -> tuple[dict[int, str], list[int]]:
    """`end_run` for several at once.

    Args:
        runs: private folders by run id.

    Returns:
        (what was killed: names by PID, PIDs that survive SIGKILL)
    """
    ended: dict[int, str] = {}
    while processes := _find(runs):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                ended.setdefault(process.pid, process.name())
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil compares the start time first: a recycled PID is left alone
        alive = _until_dead(processes)
        if alive:
            return ended, [process.pid for process in alive]
    return ended, []


def _find(runs: dict[str, Path | None]) -> list[psutil.Process]:
    """The living processes of these runs, and whatever is below them."""
    found = {process.pid: process for process in of_run(*runs)}
    for scratch in runs.values():
        found.update((process.pid, process) for process in (noted(scratch) if scratch else []))
    if found:
        for pid in guard.descendants(*found):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.setdefault(pid, psutil.Process(pid))
    found.pop(os.getpid(), None)
    return list(found.values())


def _until_dead(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Wait for processes to die; return those that do not."""
    from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed  # asyncio with it

    wait = Retrying(
        retry=retry_if_result(bool),
        wait=wait_fixed(0.02),
        stop=stop_after_delay(WAIT_S),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else processes,
    )
    alive: list[psutil.Process] = wait(lambda: [process for process in processes if _lives(process)])
    return alive


def _lives(process: psutil.Process) -> bool:
    """A zombie does not, and its parent may never collect it; ours are their Popen's to collect."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def remove_scratch(folder: Path) -> None:
    """Delete the private temporary folder of a command."""
    shutil.rmtree(folder, ignore_errors=True)
