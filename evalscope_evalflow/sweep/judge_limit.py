"""The judge's limit: verdicts at once, shared among the models that are judged at the same time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

LEAST_SHARE = 0.25  # of the limit; a model waits until so much is free


class JudgeBudget:
    """A number of verdicts at once, for all models together; the first to ask is the first to get its share."""

    def __init__(self, most: int) -> None:
        """
        Args:
            most: verdicts at once, in all.
        """
        self.most = self._left = most
        self._queue: deque[object] = deque()
        self._ahead: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def share(self, verdicts: int, check: Callable[[], None]) -> Iterator[int | None]:
        """A context in which a model may ask the judge; entering it waits for the model's share.

        Args:
            verdicts: how many it needs; 0: none, so that it does not wait.
            check: raises an error if the model was cancelled; it is called before each wait, and after `wake`.

        Returns:
            How many it may ask for at once; None: it needs none.
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

    def first_of(self, datasets: Sequence[str]) -> list[str]:
        """Of these datasets, those of which no model has asked for a verdict ahead; this one does."""
        with self._changed:
            new = [name for name in datasets if name not in self._ahead]
            self._ahead.update(new)
            return new

    def wake(self) -> None:
        """Have every model that waits call its `check` again."""
        with self._changed:
            self._changed.notify_all()

    def _take(self, verdicts: int, check: Callable[[], None]) -> int:
        least = min(verdicts, max(1, int(self.most * LEAST_SHARE)))
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
