"""Whether a dataset's files on this machine are as they were: by their content, which is read only if it has to be."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evalscope_evalflow.worker.content import content_of

_DATA = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".yaml", ".yml", ".md", ".xlsx")
_READ_BYTES = 512 * 1024**2  # in all; of what lies beyond, as of images, size and time count
_FILES = 200_000


def content(path: Path, known: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What tells the content of a file or a folder.

    Its own path is not in it, so that it may be moved.

    Args:
        path: the file or folder.
        known: what this returned before; it is not read again while sizes and times are as they were.

    Returns:
        `seen`, of names, sizes and times, and `content`; None where there is nothing.
    """
    if not os.path.exists(path):
        return None
    files = list(_files(path))
    seen = _digest(f"{name} {size} {written}" for name, _, size, written in files)
    if known and known.get("seen") == seen and known.get("content"):
        return {"seen": seen, "content": known["content"]}
    left, parts = _READ_BYTES, []
    for name, file, size, written in files:
        if file.suffix.lower() in _DATA and size <= left:
            left -= size
            parts.append(f"{name} {content_of(file)}")
        else:
            parts.append(f"{name} {size} {written}")
    return {"seen": seen, "content": _digest(parts)}


def same(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    """Whether two of these tell of the same content; what nobody has written down counts as the same."""
    return not before or not now or before.get("content") == now.get("content")


def _files(path: Path) -> Iterator[tuple[str, Path, int, int]]:
    """Name, path, bytes and time (ns since the epoch) of each file, in a fixed order; hidden ones are passed over."""
    if os.path.isfile(path):
        found = path.stat()
        yield "", path, found.st_size, found.st_mtime_ns
        return
    number = 0
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if name.startswith(".") or not os.path.isfile(file):
                continue
            number += 1
            if number > _FILES:
                return
            found = file.stat()
            yield str(file.relative_to(path)), file, found.st_size, found.st_mtime_ns


def _digest(lines: Any) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]
