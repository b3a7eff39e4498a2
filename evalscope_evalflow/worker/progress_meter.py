"""Counts answers and tokens as they come, and reports about once a second how far a dataset is."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.progress_events import DatasetProgress

REPORT_EVERY_S = 1.0
RECENT_S = 30.0  # a rate is of so long at least, once there is so much
ENOUGH = 20  # and of so many answers; what is slower is looked at for longer
FIRST_RATE = 5  # before so many answers there is no rate: the first ones come in bursts, as many as are asked at once
FIRST_RATE_S = 3.0
LONGEST_S = 900
SILENT_S = 30.0  # without an answer for so long, and for twice as long as ever before, there is no rate any more


@dataclass(frozen=True)
class _Reading:
    """What was counted at a time: samples that are over, and tokens."""

    time: float
    over: int
    tokens: int


class ProgressMeter:
    """Counts for one dataset at a time. Any thread may count."""

    def __init__(
        self,
        emit: Callable[[Event], None],
        datasets: Sequence[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = REPORT_EVERY_S,
    ) -> None:
        """
        Args:
            emit: reports an event.
            datasets: those that will be asked, or judged.
            clock: tells the time, in seconds.
            every_s: seconds between reports; 0: only `begin`, `end` and `report` make one.
        """
        self._emit, self._datasets, self._clock, self._every_s = emit, list(datasets), clock, every_s
        self._lock = threading.Lock()
        self._dataset = ""
        self._thread: threading.Thread | None = None
        self._on_their_way = 0
        self._asked, self._changed = False, False
        self._start("", False, 0, 0)

    def begin(self, dataset: str, *, judging: bool, total: int | None, saved: int) -> None:
        """A dataset is begun.

        Args:
            dataset: its name.
            judging: whether answers are judged.
            total: samples that are to be answered, or judged; None: nobody knows, and requests are counted.
            saved: those that are so already.
        """
        with self._lock:
            self._start(dataset, judging, total, saved)
        self.report()
        if self._thread is None and self._every_s:
            self._thread = threading.Thread(target=self._tick, daemon=True, name="evalflow-progress")
            self._thread.start()

    @property
    def is_judging(self) -> bool:
        """Whether answers are judged now."""
        return self._judging and bool(self._dataset)

    def sample(self, *, failed: bool = False) -> None:
        """A sample is answered, or judged; or that was tried in vain."""
        with self._lock:
            self._one_is_over()
            self._failed += failed
            self._new += not failed
            self._changed = True

    @contextmanager
    def request(self) -> Iterator[Callable[[int, int], None]]:
        """A block in which one request is on its way; it gives what is to be told of its tokens, in and out."""
        with self._lock:
            self._accrue()
            self._on_their_way += 1
            if not self._asked and not self._new:  # until now, an engine may have been waited for
                self._readings.clear()
                self._last = self._clock()
                self._readings.append(_Reading(self._last, 0, 0))
            self._asked = True
        try:
            yield self._came
        finally:
            with self._lock:
                self._accrue()
                self._on_their_way -= 1

    def end(self) -> None:
        """The dataset is over, well or not."""
        with self._lock:
            open_one = bool(self._dataset)
        if open_one:
            self.report(ended=True)
        with self._lock:
            self._dataset = ""

    def report(self, *, ended: bool = False) -> None:
        """Report how far it is."""
        with self._lock:
            if not self._dataset:
                return
            event, self._changed = self._progress(ended), False
        self._emit(event)

    def _start(self, dataset: str, judging: bool, total: int | None, saved: int) -> None:
        self._dataset, self._judging, self._total, self._saved = dataset, judging, total, saved
        self._new = self._failed = self._input = self._output = 0
        self._busy_s, self._since = 0.0, self._clock()
        self._last, self._longest_wait_s = self._since, 0.0  # when a sample was last over, and the longest wait for one
        self._asked, self._changed = False, True
        self._readings: deque[_Reading] = deque(maxlen=LONGEST_S)
        self._readings.append(_Reading(self._clock(), 0, 0))

    def _came(self, input_tokens: int, output_tokens: int) -> None:
        with self._lock:
            self._input += input_tokens
            self._output += output_tokens
            if self._total is None:
                self._one_is_over()
                self._new += 1

    def _one_is_over(self) -> None:
        now = self._clock()
        self._longest_wait_s, self._last = max(self._longest_wait_s, now - self._last), now

    def _accrue(self) -> None:
        """Count the time since the last change as busy, if it was; the lock is held."""
        now = self._clock()
        if self._on_their_way:
            self._busy_s += now - self._since
        self._since = now

    def _progress(self, ended: bool) -> DatasetProgress:
        self._accrue()
        now, over = self._clock(), self._new + self._failed
        before = self._reading(now, over)
        seconds = now - before.time
        answers = tokens = left = None
        silent = now - self._last > max(SILENT_S, 2 * self._longest_wait_s)
        if seconds >= FIRST_RATE_S and over >= FIRST_RATE and not silent:
            answers, tokens = (over - before.over) / seconds, (self._output - before.tokens) / seconds
            if answers and self._total is not None:
                left = max(0, self._total - self._saved - over) / answers
        if not self._readings or now - self._readings[-1].time >= REPORT_EVERY_S:
            self._readings.append(_Reading(now, over, self._output))
        number = self._datasets.index(self._dataset) + 1 if self._dataset in self._datasets else 1
        return DatasetProgress(
            self._dataset, self._judging, self._saved + self._new, self._total, self._failed, self._new, number,
            max(1, len(self._datasets)), _rounded(answers), _rounded(tokens), None if ended else _rounded(left),
            self._input, self._output, round(self._busy_s, 3), ended,
        )  # fmt: skip

    def _reading(self, now: float, over: int) -> _Reading:
        """The reading that the rate is counted from: the last one that lies far enough behind, or else the first."""
        for reading in reversed(self._readings):
            if now - reading.time >= RECENT_S and over - reading.over >= ENOUGH:
                return reading
        return self._readings[0]

    def _tick(self) -> None:
        never = threading.Event()
        while True:
            never.wait(self._every_s)
            if self._on_their_way or self._changed:
                with suppress(OSError, ValueError):  # the parent is gone: the task's own thread finds that out
                    self.report()


def _rounded(value: float | None) -> float | None:
    """A number with three digits, as more would be noise."""
    return None if value is None else float(f"{value:.3g}")
