"""Requests at once to one API, shared among the workers that ask it for different models of a sweep.

Each slot is a file, and whoever holds its lock may send a request. Locks end with their process, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_EVERY_S = 0.03  # a lock can be waited for, but not one of several


class RequestSlots:
    """A number of slots."""

    def __init__(self, folder: str | os.PathLike[str], most: int) -> None:
        """
        Args:
            folder: of the slots' files, on this machine; made if need be.
            most: how many there are.
        """
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._turn, self._never = threading.Lock(), threading.Event()
        self._paths = [Path(folder) / f"slot-{number}" for number in range(most)]

    @contextmanager
    def one(self) -> Iterator[None]:
        """A block with a slot; entering it waits for one. For use by many threads."""
        held = self._take()
        try:
            yield
        finally:
            os.close(held)

    def _take(self) -> int:
        """The file descriptor that holds a slot's lock."""
        with self._turn:  # one thread of each process looks, and the others wait for it
            while (held := self._free()) is None:
                self._never.wait(LOOK_EVERY_S)
            return held

    def _free(self) -> int | None:
        """A slot that nobody holds, if there is one."""
        for path in self._paths:
            held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return held
            except BlockingIOError:
                os.close(held)
        return None
