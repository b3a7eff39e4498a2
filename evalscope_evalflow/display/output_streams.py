"""Standard streams that never end a run: a reader that has gone, a full disk, a closed stream, a poor encoding."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

_GONE = (errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO, errno.ECONNRESET)  # nobody reads it any more


class _Steady(io.RawIOBase):
    """Writes to a descriptor as long as that can be done, and then drops what it is given."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self._name, self._lost = descriptor, name, False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        while not self._lost:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # somebody has made it non-blocking, and its reader is slow
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._lost = True
                if error.errno not in _GONE and self._descriptor != 2:
                    sys.stderr.write(f"evalflow: {self._name} cannot be written: {error.strerror}\n")
        return size


def steady_output() -> None:
    """Make this process's standard streams so; for commands, not for a library."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would be taken for it
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free one
    sys.stderr = _steady(sys.stderr, 2, "standard error")
    sys.stdout = _steady(sys.stdout, 1, "standard output")


def steady_stream(descriptor: int, name: str) -> TextIO:
    """A stream of that kind to a descriptor that is open.

    Args:
        name: what it is, for the message that it cannot be written.
    """
    return _steady(None, descriptor, name)


def _steady(stream: TextIO | None, descriptor: int, name: str) -> TextIO:
    if stream is not None:
        try:
            if stream.fileno() != descriptor:
                return stream  # redirected within Python
            stream.flush()
        except (OSError, ValueError):
            if not isinstance(stream, io.TextIOWrapper):
                return stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    raw = _Steady(descriptor, name)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=True, write_through=descriptor == 2
    )
