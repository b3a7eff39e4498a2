"""Reads and writes JSON-lines files that a kill, or a full disk, may have torn. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from evalscope_evalflow.events import any_json

_BLOCK = 64 * 1024


class FileError(OSError):
    """One of our own files cannot be written; its name is `filename`."""


def objects_in(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; half a line, of a process that was killed, is none, and neither is no file."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                item = any_json.loads(line)
            except ValueError:
                continue
            if isinstance(item, dict):
                yield item


def append(path: str | Path, text: str, errors: str = "strict") -> None:
    """Append whole lines to a file, or nothing.

    What a process that was killed has left half of at the file's end is ended, or cut off. What is written half now,
    as on a full disk, is cut off again, so that the same may be tried later.

    Args:
        path: the file; it is made where it is not there.
        text: the lines, each with its end.
        errors: how characters are written that UTF-8 does not have, as in `open`.

    Raises:
        FileError: it cannot be written; it is as it was.
    """
    data = text.encode("utf-8", errors)
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            size = _end_torn_line(file)
            try:
                done = 0
                while done < len(data):
                    done += os.write(file, data[done:])
            except OSError:
                with suppress(OSError):
                    if os.fstat(file).st_size == size + done:  # nobody else has appended meanwhile
                        os.ftruncate(file, size)
                raise
        finally:
            os.close(file)
    except OSError as error:
        raise FileError(error.errno, error.strerror, os.fspath(path)) from error


def _end_torn_line(file: int) -> int:
    """The file's size, after its last line is whole or gone."""
    size = os.fstat(file).st_size
    if not size or os.pread(file, 1, size - 1) == b"\n":
        return size
    tail, begin = b"", size
    while begin > 0 and b"\n" not in tail:
        before = max(0, begin - _BLOCK)
        tail = os.pread(file, begin - before, before) + tail
        begin = before
    tail = tail[tail.rfind(b"\n") + 1 :]
    try:
        any_json.loads(tail)
    except ValueError:
        os.ftruncate(file, size - len(tail))
        return size - len(tail)
    os.write(file, b"\n")  # only that was missing
    return size + 1
