"""submitit's files: what it submits, and what Slurm writes of jobs before and beside their own log."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.sweep.cluster.job_folder import LOG

FILES = "slurm"
TAIL_BYTES = 4096
WORDS_LENGTH = 300


def private_folder(job: Path) -> Path:
    """The folder of submitit's files, beside the folders of jobs; nobody else can read it.

    Args:
        job: the folder of one of the jobs.

    Raises:
        ConfigError: it is somebody else's, or others can write it.
    """
    folder = job.parent.parent / FILES
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o777 != 0o700 or folder.is_symlink():
        what = f"{folder} is not of mode 0700 and this user's own, and files that jobs load lie in it"
        raise ConfigError(Problem("work_dir", what, "Remove it, or choose another work_dir."))
    return folder


def last_words(files: Path, job: str, folder: Path) -> str:
    """The last line that Slurm wrote about a job, or else the job itself; empty if there is none.

    Args:
        files: the folder of submitit's files.
        job: its id.
        folder: the job's own folder.
    """
    for path in (files / f"{job}_0_log.err", folder / LOG):
        with suppress(OSError), path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
            if lines:
                return lines[-1].strip()[:WORDS_LENGTH]
    return ""


def remove_files(folder: Path, job: str) -> None:
    """Remove what submitit has of a job that has gone; Slurm's lines about it stay, where there are any.

    Args:
        folder: of submitit's files.
        job: its id.
    """
    for name in (f"{job}_submitted.pkl", f"{job}_0_result.pkl", f"{job}_0_log.out"):
        with suppress(OSError):
            (folder / name).unlink()
    errors = folder / f"{job}_0_log.err"
    with suppress(OSError):
        if not errors.stat().st_size:
            errors.unlink()
