"""The next model's worker, which is started while the present model answers, and imports EvalScope meanwhile."""

from __future__ import annotations

import threading
from contextlib import suppress

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.run.standby_worker import StandbyWorker
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.prefetch import room_bytes

ROOM_BYTES = 2 << 30  # a worker that has imported VLMEvalKit takes half of it


class Standby:
    """One worker at most, for whichever of an executor's jobs starts a worker next. From any thread."""

    def __init__(self, forward: bool) -> None:
        """
        Args:
            forward: whether what workers print is shown.
        """
        self._forward = forward
        self._lock = threading.Lock()
        self._worker: StandbyWorker | None = None
        self._closed = False

    def begin(self, job: Job) -> None:
        """Start one, if there is none and memory for it; where it cannot be started, the job's own start will tell.

        Args:
            job: one that will need it.
        """
        with self._lock:
            if self._worker is not None and self._worker.process.exited.is_set():
                self._end()
            if self._closed or self._worker is not None or room_bytes() < ROOM_BYTES:
                return
            flow = job.task.flow
            half = load_backend(flow.backend).worker_half_place
            with suppress(OSError):
                self._worker = StandbyWorker(half, flow.worker_env, forward=self._forward)

    def take(self) -> StandbyWorker | None:
        """The worker, which is the caller's then; None: there is none."""
        with self._lock:
            worker, self._worker = self._worker, None
            return worker

    def end(self, *, for_good: bool = False) -> None:
        """End it, if there is one: no job needs it.

        Args:
            for_good: whether no other may be started.
        """
        with self._lock:
            self._closed = self._closed or for_good
            self._end()

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()
