"""Writes files as a whole, or leaves the old ones. Standard library only: the worker imports it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from evalscope_evalflow.events.json_lines import FileError


@contextmanager
def whole_file(path: Path, errors: str = "strict", newline: str | None = None) -> Iterator[TextIO]:
    """A text file to write to, which takes the old one's place at the block's end; if that fails, the old one stays.

    What is no ordinary file, such as /dev/stdout or a pipe, is written to directly.

    Args:
        path: the file.
        errors: how characters are written that UTF-8 does not have, as in `open`.
        newline: as in `open`.

    Raises:
        FileError: it cannot be written.
    """
    ordinary = not path.exists() or path.is_file()
    target = path.resolve() if path.is_symlink() else path
    new = target.with_name(f".{target.name}.new") if ordinary else path
    try:
        try:
            with new.open("w", encoding="utf-8", errors=errors, newline=newline) as file:
                yield file
            if ordinary:
                os.replace(new, target)
        except BaseException:
            if ordinary:
                with suppress(OSError):
                    new.unlink()
            raise
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(error.errno, error.strerror, os.fspath(path)) from error


def write_whole(path: Path, text: str, errors: str = "strict") -> None:
    """Write a file as a whole, or leave the old one; its folder is made where it is not there.

    Args:
        path: the file.
        text: what it is to hold.
        errors: how characters are written that UTF-8 does not have, as in `open`.

    Raises:
        FileError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(error.errno, error.strerror, os.fspath(path.parent)) from error
    with whole_file(path, errors) as file:
        file.write(text)
