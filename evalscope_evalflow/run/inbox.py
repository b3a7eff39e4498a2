"""What the thread that does a run waits for: the events that decide how it goes on, in their order."""

from __future__ import annotations

import queue
from collections.abc import Callable

from evalscope_evalflow.events.base import Event

LOOK_EVERY_S = 1.0


class Inbox:
    """Keeps events until they are asked for. Each attempt has its own: the last one still hears of its processes."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Event | OSError] = queue.Queue()

    def put(self, event: Event) -> None:
        """An event has come."""
        self._queue.put(event)

    def fail(self, error: OSError) -> None:
        """Have whoever waits raise this error: another thread could not write something down."""
        self._queue.put(error)

    def next(self, meanwhile: Callable[[], None] | None = None) -> Event:
        """The next event.

        Args:
            meanwhile: is called every second while there is none.

        Raises:
            OSError: another thread could not write something down.
        """
        while True:
            try:
                found = self._queue.get(timeout=LOOK_EVERY_S)
            except queue.Empty:
                if meanwhile is not None:
                    meanwhile()
                continue
            if isinstance(found, OSError):
                raise found
            return found

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._queue.empty()
