"""The folders whose cluster jobs this user submitted from this host, for `evalflow ps` and `stop` without a folder."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from evalscope_evalflow.processes import registry
from evalscope_evalflow.sweep.cluster import job_folder

_FOLDER = "submitted"


def remember(work_dir: Path) -> None:
    """Write down that jobs of a task are submitted from here; nothing depends on it but what `ps` shows."""
    with suppress(OSError):
        folder = registry.folder() / _FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        name = hashlib.sha256(str(work_dir).encode()).hexdigest()[:16]
        (folder / name).write_text(f"{work_dir}\n", encoding="utf-8")


def work_dirs() -> list[Path]:
    """Task folders that still have cluster jobs; those that have none are forgotten.

    Raises:
        OSError: the list cannot be read.
    """
    folder = registry.folder() / _FOLDER
    found = []
    for path in sorted(folder.glob("*")):
        with suppress(OSError):
            work_dir = Path(path.read_text(encoding="utf-8").strip())
            if any(job_folder.folders(work_dir)):
                found.append(work_dir)
            else:
                path.unlink(missing_ok=True)
    return found
