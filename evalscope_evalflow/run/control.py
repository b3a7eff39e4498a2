"""What whoever runs a model's part of a task hears of it, and has a say in: its end, its devices, its judging."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from evalscope_evalflow.errors import Stopped


class Control:
    """A model's part on its own: nobody waits for its devices, and the judge is all its own.

    Whoever runs several at once has a subclass (see sweep/executors/local.py).

    Attributes:
        clean: whether its engines, as far as they have ended, have left nothing on their devices.
    """

    def __init__(self) -> None:
        self.clean = True
        self._lock = threading.Lock()
        self._cancelled = False
        self._ends: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Have it end, from another thread: nothing new is begun, and what runs of it is ended in order."""
        with self._lock:
            self._cancelled = True
            ends = list(self._ends)
        for end in ends:
            end()

    def check(self) -> None:
        """Whether it shall go on.

        Raises:
            Stopped: it shall not.
        """
        if self._cancelled:
            raise Stopped.all("interrupted; what was saved is kept, and the same command goes on from it")

    @contextmanager
    def ending(self, end: Callable[[], None]) -> Iterator[None]:
        """In the block, `cancel` calls `end`, which must not block; one that came before does so at once."""
        with self._lock:
            self._ends.append(end)
            cancelled = self._cancelled
        try:
            if cancelled:
                end()
            yield
        finally:
            with self._lock:
                self._ends.remove(end)

    def devices_over(self) -> None:
        """Its engine is needed no more, and has ended."""

    def may_keep(self) -> bool:
        """Whether its engine may be kept (`deploy.keep_alive_s`): not while others wait for its devices."""
        return True

    def judging(self, verdicts: int) -> AbstractContextManager[int | None]:
        """The time in which it may judge; entering it waits for that.

        Args:
            verdicts: how many it needs of the judge; 0: it asks none.

        Returns:
            How many it may ask for at once; None: as many as the task says.
        """
        return nullcontext()
