"""How many samples the user's own files hold, where that is known at once: for the plan, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from evalscope_evalflow.backends.data_files import BrokenFile, DataFile, Patience
from evalscope_evalflow.backends.native.native_data_checks import subset_files
from evalscope_evalflow.config.user_paths import user_path

if TYPE_CHECKING:
    from evalscope_evalflow.config.task import Task

_MOST = 1 << 26  # bytes of a file that are counted


def local_samples(task: Task, dataset: str) -> int | None:
    """Rows of the files of a dataset that the task names by `local_path`.

    Args:
        task: the task.
        dataset: the benchmark.

    Returns:
        None where it is not known: of other forms than JSON lines and tables, of large files, or where `limit` takes a
        part of each of several.
    """
    settings = (task.stock.get("dataset_args") or {}).get(dataset)
    if not isinstance(settings, Mapping):
        return None
    of_subsets = subset_files(dataset, settings, user_path(str(settings.get("local_path"))))
    limit = task.stock.get("limit")
    if not of_subsets or not (limit is None or (isinstance(limit, int) and len(of_subsets) == 1)):
        return None
    total = 0
    for files in of_subsets:
        counts = [_count(path) for path in files]
        first = next((number for number in counts if number != 0), None)  # the first that has rows is read
        if first is None:
            return None
        total += first
    return total


def _count(path: Path) -> int | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return _rows(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=256)  # every model of a task asks
def _rows(path: Path, size: int, changed: int) -> int | None:
    if size > _MOST:
        return None
    try:
        if path.suffix == ".jsonl":
            with path.open("rb") as lines:
                return sum(1 for line in lines if line.strip())
        file = DataFile(path, Patience())
        number = sum(1 for _ in file.rows())
    except (OSError, BrokenFile):
        return None
    return number if file.whole else None
