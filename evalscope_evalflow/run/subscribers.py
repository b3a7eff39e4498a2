"""Subscribers to a run's events, beside its record and its display: the registry, cells.json and the executor."""

from __future__ import annotations

import dataclasses
import time

from evalscope_evalflow.events.api_events import JUDGE, ApiBack, ApiBusy, ApiDown, ApiGivenUp
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.engine_events import (
    DevicesFree,
    EngineReady,
    EngineReleased,
    EngineReused,
    EngineStarting,
)
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.events.run_events import Phase, PhaseBegan, WorkPlanned
from evalscope_evalflow.events.worker_events import DatasetAnswered, DatasetFailed, MetricsFailed
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.run.context import Run
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.state import failures

# What `evalflow ps` shows. While it loads and is released, the engine says so itself.
SHOWN = {
    Phase.INFER: "evaluating",
    Phase.JUDGE: "judging",
    Phase.WAIT_FOR_JUDGE: "judging",
    Phase.COLLECT: "collecting",
}
WRITE_EVERY_S = 2.0


class RegistrySubscriber:
    """Keeps the run's entry, which `evalflow ps` shows."""

    def __init__(self, entry: Registration) -> None:
        self._entry, self._shown = entry, ""
        self._written = 0.0  # when progress was last written down

    def on_event(self, event: Event) -> None:
        if isinstance(event, PhaseBegan) and event.phase in SHOWN:
            self._shown = SHOWN[event.phase]
            self._entry.phase(self._shown)
        elif isinstance(event, (ApiDown, ApiBusy)):
            self._entry.phase("waiting for the judge" if event.api == JUDGE else "waiting for the API")
        elif isinstance(event, (ApiBack, ApiGivenUp)) and self._shown:
            self._entry.phase(self._shown)
        elif isinstance(event, DatasetProgress):
            self._progress(event)
        elif isinstance(event, (EngineStarting, EngineReused)):
            self._entry.set(engine=event.engine)

    def _progress(self, event: DatasetProgress) -> None:
        now = time.monotonic()
        of_this_phase = self._shown == SHOWN[Phase.JUDGE if event.judging else Phase.INFER]
        if of_this_phase and (event.ended or now - self._written >= WRITE_EVERY_S):
            self._written = now
            self._entry.set(progress=dataclasses.asdict(event))


class CellsSubscriber:
    """Keeps cells.json, by which the next run knows what is left to do."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def on_event(self, event: Event) -> None:
        if isinstance(event, DatasetAnswered):
            cause = failures.cause(self._run.task, self._run.model)
            changes = {"requested": event.requested, "answered": event.answered, "cause": cause}
            self._run.update_cells({event.dataset: changes})
        elif isinstance(event, MetricsFailed):
            failed = {metric: list(found) for metric, found in event.metrics.items()}
            self._run.update_cells({event.dataset: {"metrics_failed": failed or None}})
        elif isinstance(event, DatasetFailed):
            self._run.update_cells({event.dataset: {"error": event.message}})


class ExecutorSubscriber:
    """Tells whoever runs several models that devices are free, and whether they are clean."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def on_event(self, event: Event) -> None:
        if isinstance(event, EngineReleased) and event.problems:
            self._control.clean = False
        elif isinstance(event, EngineReady):
            self._control.engine_ready()
        elif isinstance(event, WorkPlanned):
            self._control.work_planned()
        elif isinstance(event, DevicesFree):
            self._control.devices_released()
