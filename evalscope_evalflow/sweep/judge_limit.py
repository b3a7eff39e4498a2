"""What a judge gives at once, shared out among the models whose answers it judges."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LEAST = 0.25  # of all: with less than that a model waits until another has been judged


class JudgeBudget:
    """So many verdicts at once, in all; models come in the order in which they ask."""

    def __init__(self, most: int) -> None:
        """
        Args:
            most: verdicts at once.
        """
        self.most = self._left = most
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def share(self, verdicts: int, check: Callable[[], None]) -> Iterator[int | None]:
        """The time in which a model may be judged.

        Args:
            verdicts: how many it needs; 0: none, so that it waits for nobody.
            check: raises if it shall not wait any longer; `wake` has it asked.

        Returns:
            How many it may ask for at once; None where it needs none.
        """
        if not verdicts:
            yield None
            return
        mine = self._take(verdicts, check)
        try:
            yield mine
        finally:
            with self._changed:
                self._left += mine
                self._changed.notify_all()

    def wake(self) -> None:
        """Have those that wait look whether they still shall."""
        with self._changed:
            self._changed.notify_all()

    def _take(self, verdicts: int, check: Callable[[], None]) -> int:
        least = min(verdicts, max(1, int(self.most * LEAST)))
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket or self._left < least:
                    check()
                    self._changed.wait()
                check()
                mine = min(verdicts, self._left)
                self._left -= mine
                return mine
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
