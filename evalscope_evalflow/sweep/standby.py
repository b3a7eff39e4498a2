"""The next model's processes, started while the present model answers: its worker, and its engine's, as far as that
goes without a device. They import meanwhile.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.errors import EvalFlowError
from evalscope_evalflow.run.standby_worker import StandbyWorker
from evalscope_evalflow.serving.standby_engine import StandbyEngine
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.prefetch import room_bytes

ROOM_BYTES = 2 << 30  # a worker that has imported VLMEvalKit takes half of it


class Standby:
    """One worker and one engine at most, for whichever of an executor's jobs starts one next. From any thread."""

    def __init__(self, forward: bool) -> None:
        """
        Args:
            forward: whether what workers print is shown.
        """
        self._forward = forward
        self._lock = threading.Lock()
        self._worker: StandbyWorker | None = None
        self._engine: StandbyEngine | None = None
        self._closed = False

    def begin(self, job: Job, *, with_engine: bool = False) -> None:
        """Start what there is none of, and memory for; where it cannot be started, the job's own start will tell.

        Args:
            job: one that will need it.
            with_engine: whether the job will need an engine of its own, too.
        """
        with self._lock:
            for ahead in (self._worker, self._engine):
                if ahead is not None and ahead.process.exited.is_set():
                    self._drop(ahead)
            if self._closed:
                return
            with suppress(OSError, EvalFlowError):
                if self._worker is None and room_bytes() >= ROOM_BYTES:
                    flow = job.task.flow
                    half = load_backend(flow.backend).worker_half_place
                    self._worker = StandbyWorker(half, flow.worker_env, forward=self._forward)
                engine = resolve_engine(job.model, job.deploy)
                room = engine.imports_ahead.room_bytes + ROOM_BYTES if engine.imports_ahead else 0
                if with_engine and self._engine is None and room and room_bytes() >= room:
                    self._engine = StandbyEngine(engine, job.deploy)

    def take(self) -> StandbyWorker | None:
        """The worker, which is the caller's then; None: there is none."""
        with self._lock:
            worker, self._worker = self._worker, None
            return worker

    def take_engine(self) -> StandbyEngine | None:
        """The engine's process, which is the caller's then; None: there is none."""
        with self._lock:
            engine, self._engine = self._engine, None
            return engine

    def end(self, *, for_good: bool = False) -> None:
        """End what there is: no job needs it.

        Args:
            for_good: whether nothing else may be started.
        """
        with self._lock:
            self._closed = self._closed or for_good
            for ahead in (self._worker, self._engine):
                if ahead is not None:
                    self._drop(ahead)

    def _drop(self, ahead: StandbyWorker | StandbyEngine) -> None:
        if ahead is self._worker:
            self._worker = None
        else:
            self._engine = None
        ahead.end()
