"""The trivial executor: one job after the other, in the thread that submits them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from evalscope_evalflow.config.plugin_options import PluginOptions
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.errors import EvalFlowError, Stopped
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.run.standby_worker import StandbyWorker
from evalscope_evalflow.serving.standby_engine import StandbyEngine
from evalscope_evalflow.sweep.engine_groups import members_together, release_kept_for_heirs
from evalscope_evalflow.sweep.executors.base import Executor
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.standby import Standby


class InlineControl(Control):
    """Hands a job's engine to the job that comes next, where that can use it.

    Attributes:
        standby: has the worker that was started ahead; None: none is.
    """

    def __init__(self, job: Job, following: Job | None) -> None:
        super().__init__()
        self._following = following
        self.standby: Standby | None = None
        self.shares_engine, self.swaps_weights = bool(job.group), job.group.swaps
        self._heir_waits = bool(job.group) and following is not None and following.group == job.group

    def engine_ready(self) -> None:
        if self.standby is not None and self._following is not None and self._following.asks_model:
            self.standby.begin(self._following, with_engine=not self._heir_waits)

    def standby_engine(self) -> StandbyEngine | None:
        return None if self.standby is None else self.standby.take_engine()

    def standby_worker(self) -> StandbyWorker | None:
        return None if self.standby is None else self.standby.take()

    def heir_waits(self) -> bool:
        return self._heir_waits


class Inline(Executor):
    """Runs each job as it is submitted; Ctrl-C and `evalflow stop --all` end it and all that follow."""

    name = "inline"
    interface_version = 1

    def __init__(self, reporter: LiveReporter, options: PluginOptions | None = None) -> None:
        super().__init__(reporter, options)
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self._thread: int | None = None
        self._control: Control | None = None
        self._stopped: Stopped | None = None
        self._standby: Standby | None = None

    def submit(self, jobs: Sequence[Job]) -> list[Future[ModelResult]]:
        self._idle.clear()
        self._thread = threading.get_ident()
        self._standby = Standby(self.reporter.forward)
        try:
            order = members_together(jobs)
            heirs = [*(jobs[number] for number in order[1:]), None]
            done = {
                number: self._run(jobs[number], self.control_of(jobs[number], heir))
                for number, heir in zip(order, heirs, strict=True)
            }
            return [done[number] for number in range(len(jobs))]
        finally:
            self._standby.end(for_good=True)
            release_kept_for_heirs()
            self._idle.set()

    def control_of(self, job: Job, following: Job | None) -> InlineControl:
        """How a job speaks to this executor.

        Args:
            job: the job.
            following: the one that comes next; None: it is the last.
        """
        return InlineControl(job, following)

    def finished(self, job: Job, future: Future[ModelResult]) -> None:
        """A job has had its turn, or was not begun; called before the next one begins."""

    def cancel(self) -> None:
        with self._lock:
            self._stopped = self._stopped or Stopped.all("interrupted before it began")
            control = self._control
        if control is not None:
            control.cancel()
        if self._thread != threading.get_ident():
            self._idle.wait()

    def _run(self, job: Job, control: InlineControl) -> Future[ModelResult]:
        """The future of a job that has ended, or that is not begun any more."""
        future: Future[ModelResult] = Future()
        control.standby = self._standby
        with self._lock:
            stopped, self._control = self._stopped, control
        if stopped is not None:
            future.set_exception(stopped)
            self.finished(job, future)
            return future
        try:
            future.set_result(job.run(self.reporter, control))
        except EvalFlowError as error:
            if isinstance(error, Stopped) and error.everything:
                self._stopped = error
            future.set_exception(error)
        finally:
            with self._lock:
                self._control = None
        self.finished(job, future)
        return future
