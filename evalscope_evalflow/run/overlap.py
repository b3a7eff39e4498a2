"""How much of the worker's preparation was hidden behind the engine's start."""

from __future__ import annotations

import time
from collections.abc import Callable

from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.engine_events import EngineReady
from evalscope_evalflow.events.run_events import OverlapMeasured, Phase, PhaseBegan, WorkerStarted
from evalscope_evalflow.events.worker_events import WorkerAsking, WorkerWaiting


class OverlapMeter:
    """A subscriber that takes the time of what it hears, and says `OverlapMeasured` when the model is first asked."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        """
        Args:
            emit: is called with the result.
        """
        self._emit = emit
        self._times: dict[type[Event], float] = {}

    def on_event(self, event: Event) -> None:
        if isinstance(event, PhaseBegan) and event.phase is Phase.LOAD:
            self._times = {PhaseBegan: time.monotonic()}
        elif isinstance(event, (WorkerStarted, WorkerWaiting, EngineReady)):
            self._times[type(event)] = time.monotonic()
        elif isinstance(event, WorkerAsking):
            times = [self._times.get(kind) for kind in (PhaseBegan, WorkerStarted, WorkerWaiting, EngineReady)]
            known = [moment for moment in times if moment is not None]
            if len(known) == len(times):
                self._emit(overlap(*known))


def overlap(began: float, worker_began: float, worker_ready: float, engine_ready: float) -> OverlapMeasured:
    """The share of the worker's preparation that was done while the engine started.

    Args:
        began: when the engine was started; all of these are readings of one clock, in seconds.
        worker_began: when the worker was started.
        worker_ready: when it had imported EvalScope and loaded its data.
        engine_ready: when the engine could be asked.
    """
    took = worker_ready - worker_began
    hidden = min(max(engine_ready - worker_began, 0.0), took)
    return OverlapMeasured(
        engine_ready_s=round(engine_ready - began, 3),
        worker_ready_s=round(worker_ready - began, 3),
        share=round(hidden / took, 3) if took > 0 else 1.0,
    )
