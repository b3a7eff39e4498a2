"""Writes down for how long an engine was held, and what it did meanwhile: loading, answering, or nothing."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from evalscope_evalflow.devices.utilisation import SAMPLER, UtilisationSampler
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.engine_events import (
    EngineKept,
    EngineReady,
    EngineReleased,
    EngineReused,
    EngineStarting,
)
from evalscope_evalflow.events.json_lines import append
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.events.run_events import Phase, PhaseBegan, RunFinished
from evalscope_evalflow.events.schema import SCHEMA
from evalscope_evalflow.events.spending import FILE
from evalscope_evalflow.state.costs import ANSWERING, IDLE, LOADING, engine_line

WRITE_EVERY_S = 60.0  # so that a run that is killed has lost no more
FRESH_S = 2.5  # a report on what is answered holds for so long: the next one comes within a second or two


class CostMeter:
    """A subscriber that takes the time of what it hears.

    What the engine is asked is known from the worker's reports: they say for how long at least one request was on its
    way. All other time since it was ready counts as idle.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sampler: UtilisationSampler = SAMPLER,
    ) -> None:
        """
        Args:
            folder: `evalflow` in the run folder.
            run_id: the run's name.
            clock: tells the time, in seconds.
            sampler: reads how busy devices are.
        """
        self._path, self._run_id, self._clock, self._sampler = folder / FILE, run_id, clock, sampler
        self._lock = threading.Lock()  # the sampler has a thread of its own
        self._held = False
        self._end_sampling: Callable[[], None] = lambda: None
        self._reset()

    def on_event(self, event: Event) -> None:
        """Take note of it."""
        match event:
            case EngineStarting(local=True) | EngineReused():
                self._begin(event)
            case EngineReady():
                with self._lock:
                    self._count_time()
                    self._ready = True
            case DatasetProgress(judging=False):
                self._answered(event)
            case PhaseBegan(Phase.RELEASE):  # whether its devices are free is looked at without us
                self._end_sampling()
            case EngineReleased(held_s=held_s) | EngineKept(held_s=held_s):
                self._end(held_s)
            case RunFinished():
                self._end(None)

    def _reset(self) -> None:
        self._gpus, self._ready = 0, False
        self._began = self._last = self._written = self._clock()
        self._dataset, self._asked_at, self._busy_s = "", 0.0, 0.0
        self._seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._readings: defaultdict[tuple[str, str], list[float]] = defaultdict(list)

    def _begin(self, event: EngineStarting | EngineReused) -> None:
        """An engine is held; a start that is tried again goes on with what the first one has begun."""
        self._end_sampling()
        with self._lock:
            if not self._held:
                self._reset()
                self._held = True
            self._gpus = len(event.devices)
        if event.devices:
            self._end_sampling = self._sampler.watch(event.devices, self._reading)

    def _answered(self, event: DatasetProgress) -> None:
        with self._lock:
            if not self._held:
                return
            self._count_time()
            before = self._busy_s if event.dataset == self._dataset and event.busy_s >= self._busy_s else 0.0
            seconds = event.busy_s - before
            self._dataset, self._busy_s = event.dataset, event.busy_s
            if seconds > 0:
                self._seconds[ANSWERING, event.dataset] += seconds
                self._seconds[IDLE, ""] -= seconds
                self._asked_at = self._clock()
            due = self._clock() - self._written >= WRITE_EVERY_S
        if due:
            self._write()

    def _count_time(self) -> None:
        now = self._clock()
        self._seconds[IDLE if self._ready else LOADING, ""] += now - self._last
        self._last = now

    def _reading(self, share: float) -> None:
        with self._lock:
            if not self._ready:
                self._readings[LOADING, ""].append(share)
            elif self._dataset and self._clock() - self._asked_at < FRESH_S:
                self._readings[ANSWERING, self._dataset].append(share)
            else:
                self._readings[IDLE, ""].append(share)

    def _end(self, held_s: float | None) -> None:
        self._end_sampling()
        with self._lock:
            if not self._held:
                return
            self._count_time()
            if held_s is not None:  # it was begun a little before anybody was told
                self._seconds[LOADING, ""] += max(0.0, held_s - (self._clock() - self._began))
            self._held = False
        self._write()

    def _write(self) -> None:
        """Append what has been counted since the last time, if that can be: it must not end the run."""
        with self._lock:
            lines = []
            for key in sorted({*self._seconds, *self._readings}):
                seconds = self._seconds[key]
                if seconds < 0 and self._held:  # reports come late: the next seconds make up for it
                    continue
                line = engine_line(self._run_id, *key, max(0.0, seconds), self._gpus, self._readings[key])
                lines.append(json.dumps({"schema": SCHEMA, **line}) + "\n")
                self._seconds[key], self._readings[key] = 0.0, []
            self._written = self._clock()
        with suppress(OSError):
            append(self._path, "".join(lines))
