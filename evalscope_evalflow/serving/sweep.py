"""What to do when even the guard was killed: find the processes of a run by the run's id in their environment."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import psutil
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

RUN_ID = "EVALFLOW_RUN_ID"
WAIT_S = 10.0


def of_run(run_id: str) -> list[psutil.Process]:
    """Living processes of this user whose environment names the run, this process excepted."""
    found = []
    mark = f"{RUN_ID}={run_id}".encode()
    for process in psutil.process_iter():
        try:
            environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark in environ and process.pid != os.getpid():
            found.append(process)
    return found


def end_run(run_id: str) -> list[int]:
    """Kill the processes of a run, children that they start meanwhile included.

    Returns:
        PIDs that survive SIGKILL.
    """
    processes = of_run(run_id)
    while processes:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # psutil compares the start time first: a recycled PID is left alone
        alive = _until_dead(processes)
        if alive:
            return [process.pid for process in alive]
        processes = of_run(run_id)
    return []


def _until_dead(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Wait for processes to die; return those that do not."""
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
