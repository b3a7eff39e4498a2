"""The folders that every node has to see under the same path: results, checkpoints, environments and data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.sweep.job import Job


def shared_folders(jobs: Sequence[Job]) -> list[Path]:
    """Folders, each once and none inside another one of them; of files, the folders they are in.

    Args:
        jobs: those that run on the cluster.
    """
    found = {_existing_folder(path) for job in jobs for path in _paths(job)}
    return sorted(path for path in found if not any(other in path.parents for other in found))


def _paths(job: Job) -> Iterator[Path]:
    task, model, deploy = job.task, job.model, job.deploy
    yield task.work_dir
    yield Path(sys.prefix)
    for given in (model.path, model.adapter, deploy.chat_template, *model.served_adapters.values()):
        if given and os.path.exists(os.path.expanduser(str(given))):
            yield Path(user_path(str(given)))
    for env in (deploy.env, task.flow.worker_env):
        if env and os.path.exists(os.path.expanduser(env)):
            yield Path(user_path(env))
    for args in (task.stock.get("dataset_args") or {}).values():
        local = args.get("local_path") or args.get("dataset_id") if isinstance(args, Mapping) else None
        if isinstance(local, str) and os.path.isabs(os.path.expanduser(local)) and os.path.exists(user_path(local)):
            yield Path(user_path(local))
    data = task.stock.get("dataset_dir")
    if isinstance(data, (str, os.PathLike)) and os.path.isdir(user_path(str(data))):
        yield Path(user_path(str(data)))


def _existing_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    path = Path(os.path.abspath(path))
    while not path.is_dir():
        path = path.parent
    return path
