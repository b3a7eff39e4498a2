"""The trivial executor: one job after the other, in this thread."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from evalscope_evalflow.errors import EvalFlowError, Stopped
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.sweep.executors.base import Executor
from evalscope_evalflow.sweep.job import Job


class Inline(Executor):
    """Does each job as it is submitted; a Ctrl-C, and `evalflow stop --all`, end it and all that follow."""

    name = "inline"

    def submit(self, jobs: Sequence[Job]) -> list[Future[ModelResult]]:
        futures: list[Future[ModelResult]] = []
        stopped: Stopped | None = None
        for job in jobs:
            future: Future[ModelResult] = Future()
            futures.append(future)
            if stopped is not None:
                future.set_exception(stopped)
                continue
            try:
                future.set_result(job.run(self.reporter))
            except EvalFlowError as error:
                stopped = error if isinstance(error, Stopped) and error.everything else None
                future.set_exception(error)
        return futures

    def cancel(self) -> None:
        """Nothing runs outside of `submit`."""
