"""Checks of the machine that a run is on: a folder to write to, with room, and an address to listen at."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from evalscope_evalflow.config import DeployConfig
from evalscope_evalflow.errors import Problem
from evalscope_evalflow.processes import ports
from evalscope_evalflow.serving import warm_pool

# A run writes answers, reviews and logs: some MiB with the sets in EvalScope, and much more with images in them.
MIN_FREE = 64 * 1024**2
LOW_FREE = 1024**3


def check_folder(work_dir: Path, notify: Callable[[str], None]) -> Iterator[Problem]:
    """Whether results can be written there; `notify` is called if there is little room."""
    existing = next(path for path in (work_dir, *work_dir.parents) if path.exists())
    if not existing.is_dir():
        yield Problem("work_dir", f"{existing} is not a folder", "Choose another folder.")
        return
    try:
        with tempfile.TemporaryFile(dir=existing) as file:  # tried, as neither modes nor mounts tell all
            file.write(b"evalflow")
    except OSError as error:
        yield Problem("work_dir", f"{existing} is not writable: {error.strerror}", "Choose another folder.")
        return
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE:
        yield Problem(
            "work_dir", f"{existing} has {free / 1024**2:.0f} MiB of room left", "Make room, or choose another disk."
        )
    elif free < LOW_FREE:
        notify(f"work_dir: {existing} has only {free / 1024**2:.0f} MiB of room left")


def check_port(deploy: DeployConfig, notify: Callable[[str], None]) -> Iterator[Problem]:
    """Whether the engine can listen at its host; `notify` is called if the port is taken: the next free one will do."""
    reason = ports.why_not(deploy.host, 0)
    if reason is not None:
        yield Problem(
            "deploy.host",
            f"{deploy.host} is no address to listen at here: {reason.strerror}",
            "Leave it out: 127.0.0.1.",
        )
    elif deploy.port is not None:
        reason = ports.why_not(deploy.host, deploy.port)
        if isinstance(reason, PermissionError):
            yield Problem("deploy.port", f"port {deploy.port} is for root alone", "Choose one above 1023.")
        elif reason is not None and deploy.port not in warm_pool.ports():
            notify(f"port {deploy.port} is taken; the next free one will be used")
