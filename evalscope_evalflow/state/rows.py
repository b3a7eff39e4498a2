"""JSON-lines files of results: rows that were never finished."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from evalscope_evalflow.events import any_json

_BLOCK = 64 * 1024


def end_torn_rows(paths: Iterable[Path]) -> list[Path]:
    """Cut off what a process that was killed, or ran out of room, had begun to write at the end of a JSON-lines file.

    EvalScope skips such a row, but appends the next one to it, and so loses that too.

    Args:
        paths: the files.

    Returns:
        The files that were changed.
    """
    changed = []
    for path in paths:
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            whole = _after_last_newline(file, size)
            if whole == size:
                continue
            file.seek(whole)
            try:
                any_json.loads(file.read())
            except ValueError:
                file.truncate(whole)
            else:
                file.write(b"\n")  # only that was missing
        changed.append(path)
    return changed


def _after_last_newline(file: BinaryIO, size: int) -> int:
    """Where the last row of a file begins, or its size if all are ended."""
    end = size
    while end > 0:
        begin = max(0, end - _BLOCK)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
