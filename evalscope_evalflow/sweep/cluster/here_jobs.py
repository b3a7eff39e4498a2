"""Jobs that run in the submitting process: models behind APIs, and scoring and judging of what the cluster answered.

Keys of APIs and judges never leave it, and all of its jobs together keep the judge's limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from evalscope_evalflow.config.api_url import public_url
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.errors import Stopped
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.run.standby_worker import StandbyWorker
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.judge_limit import JudgeBudget
from evalscope_evalflow.sweep.local_claims import AT_ONCE
from evalscope_evalflow.sweep.standby import Standby


class _HereControl(Control):
    """Lets a job judge within the judge's limit, and use the worker that was started ahead."""

    def __init__(self, budget: JudgeBudget, standby: Standby) -> None:
        super().__init__()
        self._budget, self._standby = budget, standby

    def standby_worker(self) -> StandbyWorker | None:
        return self._standby.take()

    def cancel(self) -> None:
        super().cancel()
        self._budget.wake()

    def judge_ahead(self, datasets: Sequence[str]) -> list[str]:
        return self._budget.first_of(datasets)

    def judging(self, verdicts: int) -> AbstractContextManager[int | None]:
        return self._budget.share(verdicts, self.check)


class HereJobs:
    """Runs jobs in threads: so many that are only judged, and so many of each API, at the same time."""

    def __init__(self, reporter: LiveReporter, verdicts_at_once: int, stopped: Callable[[], None]) -> None:
        """
        Args:
            reporter: reports to the user.
            verdicts_at_once: of all jobs together.
            stopped: is called when `evalflow stop --all` has ended one of them.
        """
        self._reporter, self._stopped = reporter, stopped
        self._budget = JudgeBudget(verdicts_at_once)
        self._standby = Standby(reporter.forward)
        self._lock = threading.Lock()
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._running: set[_HereControl] = set()
        self._cancelled = False

    def begin(self, job: Job, done: Callable[[ModelResult | BaseException], None]) -> None:
        """Run a job as soon as it is its turn.

        Args:
            job: it.
            done: is called, in a thread, with its result, or with the error that ended it.
        """
        where = urlsplit(public_url(job.model.api_url or "")).netloc if job.asks_model else ""
        with self._lock:
            pool = self._pools.setdefault(where, ThreadPoolExecutor(AT_ONCE, thread_name_prefix="evalflow"))
        future = pool.submit(self._run, job)
        future.add_done_callback(lambda ended: done(_what_became(ended)))

    def stand_by(self, job: Job) -> None:
        """Start a worker ahead, if there is none, for a job that is to be scored soon: its imports take seconds."""
        self._standby.begin(job)

    def close(self) -> None:
        """End the worker that was started ahead, if no job has taken it."""
        self._standby.end(for_good=True)

    def cancel(self) -> None:
        """End what runs, begin nothing more, and return when nothing runs any more."""
        with self._lock:
            self._cancelled = True
            self._standby.end(for_good=True)
            running, pools = set(self._running), list(self._pools.values())
        for control in running:
            control.cancel()
        for pool in pools:
            pool.shutdown(wait=True)

    def _run(self, job: Job) -> ModelResult:
        control = _HereControl(self._budget, self._standby)
        control.continues = not job.asks_model
        with self._lock:
            if self._cancelled:
                raise Stopped.all("interrupted before it began")
            self._running.add(control)
        try:
            return job.run(self._reporter, control)
        except Stopped as error:
            if error.everything:
                self._stopped()
            raise
        finally:
            with self._lock:
                self._running.discard(control)


def _what_became(future: Future[ModelResult]) -> ModelResult | BaseException:
    return future.exception() or future.result()
