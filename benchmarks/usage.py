"""What a process costs while it runs: its own CPU time and memory, and those of its guards."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass

import psutil

LOOK_S = 0.25


@dataclass
class Usage:
    """In a span of time.

    Attributes:
        cpu: share of one core that the process took.
        guards_cpu: the same of its guards, together.
        rss_mb: most memory that it had, in MB.
        guards_rss_mb: the same of its guards, together.
        seconds: the length of the span.
    """

    cpu: float
    guards_cpu: float
    rss_mb: float
    guards_rss_mb: float
    seconds: float


class UsageOf:
    """Looks at a process, for the length of a `with` block."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._seen: list[tuple[float, float, float, float, float]] = []
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        guards: dict[int, tuple[float, float]] = {}
        while not self._over.wait(LOOK_S):
            with suppress(psutil.Error):
                for child in self._process.children():
                    with suppress(psutil.Error):
                        times, memory = child.cpu_times(), child.memory_info()
                        guards[child.pid] = times.user + times.system, memory.rss
                times, memory = self._process.cpu_times(), self._process.memory_info()
                cpu, rss = (sum(column) for column in zip(*guards.values(), strict=True)) if guards else (0.0, 0.0)
                self._seen.append((time.time(), times.user + times.system, cpu, memory.rss, rss))

    def __enter__(self) -> UsageOf:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def between(self, begin: float, end: float) -> Usage:
        """What was used in a span, given in seconds since the epoch."""
        seen = [item for item in self._seen if begin <= item[0] <= end]
        if len(seen) < 2:
            return Usage(*[float("nan")] * 4, seconds=0.0)
        first, last = seen[0], seen[-1]
        seconds = last[0] - first[0]
        cpu, guards = ((last[column] - first[column]) / seconds for column in (1, 2))
        return Usage(cpu, guards, max(item[3] for item in seen) / 1e6, max(item[4] for item in seen) / 1e6, seconds)
