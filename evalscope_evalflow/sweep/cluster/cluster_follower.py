"""Follows cluster jobs from the submitting process: polls, submits lost jobs again, and scores what was answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.errors import RESUME, EvalFlowError, Stopped
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.sweep.cluster import job_folder
from evalscope_evalflow.sweep.cluster.adoption import cancel_and_wait
from evalscope_evalflow.sweep.cluster.cluster_job import ClusterJob, ids_of, submit_again
from evalscope_evalflow.sweep.cluster.cluster_options import ClusterOptions
from evalscope_evalflow.sweep.cluster.cluster_progress import ShownProgress
from evalscope_evalflow.sweep.cluster.cluster_work import answered_result, saved_answers, scoring
from evalscope_evalflow.sweep.cluster.here_jobs import HereJobs
from evalscope_evalflow.sweep.cluster.job_folder import Fate, NodeResult, Outcome
from evalscope_evalflow.sweep.cluster.scheduler import JobStatus, Scheduler, SchedulerSilent, Stage
from evalscope_evalflow.sweep.job import Job

POLL_S = 1.0  # between two looks at the files of jobs that run
ASK_S, ASK_AT_MOST_S = 1.0, 10.0  # between two requests to the scheduler, after news and without any
LATE_S = 5.0  # that a result may come after the scheduler says that its job is gone
FILES_LATE_S = 90.0  # that answers may come after the result: caches of NFS last up to 60 s


@dataclass
class Followed:
    """What the follower works with.

    Attributes:
        scheduler: the cluster's.
        options: the executor's.
        jobs: the task's jobs that are answered on the cluster, by model.
        futures: of every model of the task, by name.
        cluster_jobs: what was submitted or adopted.
        here: runs what is left of a model when it is answered.
        reporter: reports to the user.
    """

    scheduler: Scheduler
    options: ClusterOptions
    jobs: Mapping[str, Job]
    futures: Mapping[str, Future[ModelResult]]
    cluster_jobs: Sequence[ClusterJob]
    here: HereJobs
    reporter: LiveReporter


class ClusterFollower:
    """Lives in a thread from `start` until every job is gone, or `cancel` is called."""

    def __init__(self, followed: Followed) -> None:
        self._with = followed
        self._left = list(followed.cluster_jobs)
        self._shown = ShownProgress(followed.reporter, followed.jobs)
        self._wake = threading.Event()
        self._cancelled = False
        self._abandoned: EvalFlowError | None = None
        self._asked = self._silent_since = 0.0
        self._ask_s = ASK_S
        self._late: dict[str, float] = {}  # models whose answers are not all seen here, and since when
        self._thread = threading.Thread(target=self._live, daemon=True, name="evalflow cluster jobs")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def request_cancel(self) -> None:
        """Begin to end every job, and return at once."""
        self._cancelled = True
        self._wake.set()

    def cancel(self) -> None:
        """End every job, and return when the cluster runs none of them any more."""
        self.request_cancel()
        self.join()

    def abandon(self, error: EvalFlowError) -> None:
        """Leave the jobs to somebody else."""
        self._abandoned = error
        self._wake.set()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until it has ended."""
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _live(self) -> None:
        try:
            for job in self._left:
                self._shown.status(job)
            while self._left and not self._cancelled and self._abandoned is None:
                self._step()
                self._wake.wait(POLL_S)
            if self._cancelled:
                self._end_all()
        except BaseException as error:  # noqa: BLE001 - whoever waits for a future must hear of a defect
            self._abandoned = EvalFlowError(f"following the cluster's jobs failed: {type(error).__name__}: {error}")
        for job in self._left:
            if not job.open:  # it only has to exit
                job_folder.remove(job.folder)
        if self._abandoned is not None:
            for name in self._with.jobs:
                self._settle(name, self._abandoned)

    def _end_all(self) -> None:
        self._with.reporter.log(f"ending {len(self._left)} cluster jobs, and waiting until they are gone")
        cancel_and_wait(self._left, self._with.scheduler, self._with.reporter.warn)
        for job in self._left:
            for name in sorted(job.open):
                self._settle(name, Stopped.all(f"interrupted; {RESUME}"))
        self._left = []

    def _step(self) -> None:
        self._ask()
        for job in list(self._left):
            if job.status.stage is not Stage.QUEUED or job.written.resubmitted:
                result = job_folder.read_result(job.folder)
                self._take(job, result)
                if job.status.stage is Stage.RUNNING and not result.ended:
                    self._shown.node(job)
                    self._stand_by(job)
                elif job.status.stage is Stage.GONE:
                    self._is_gone(job, result)

    def _stand_by(self, job: ClusterJob) -> None:
        """A model answers: have a worker import what scoring needs meanwhile."""
        wanted = [self._with.jobs[name] for name in job.open if name in self._with.jobs]
        if wanted and wanted[0].task.flow.mode != "infer":
            self._with.here.stand_by(wanted[0])

    def _ask(self) -> None:
        """Ask the scheduler where the jobs are, the less often the longer there are no news."""
        ids = ids_of(self._left)
        now = time.monotonic()
        if not ids or now - self._asked < self._ask_s:
            return
        self._asked = now
        try:
            statuses = self._with.scheduler.statuses(ids)
        except SchedulerSilent as error:
            if not self._silent_since:
                self._with.reporter.warn(f"the cluster's scheduler does not answer; its jobs go on meanwhile: {error}")
            self._silent_since = self._silent_since or now
            self._ask_s = min(self._ask_s * 2, ASK_AT_MOST_S)
            return
        if self._silent_since:
            self._with.reporter.log(f"the cluster's scheduler answers again, after {now - self._silent_since:.0f} s")
            self._silent_since = 0.0
        news = False
        for job in self._left:
            if job.id in ids and job.is_at(statuses.get(job.id, JobStatus(Stage.GONE))):
                news = True
                self._shown.status(job)
        self._ask_s = ASK_S if news else min(self._ask_s * 1.5, ASK_AT_MOST_S)

    def _take(self, job: ClusterJob, result: NodeResult) -> None:
        """Go on with the models that had their turn."""
        for name, outcome in result.outcomes.items():
            if name not in job.open or outcome.fate is Fate.INTERRUPTED:
                continue
            if outcome.fate is not Fate.ANSWERED:
                words = outcome.message or outcome.fate.value
                self._close(job, name, Stopped(words) if outcome.fate is Fate.STOPPED else EvalFlowError(words))
            elif name in self._with.jobs and self._sees_answers(name, outcome):
                job.open.discard(name)
                self._answered(name, outcome)
            elif name not in self._with.jobs:
                job.open.discard(name)

    def _sees_answers(self, name: str, outcome: Outcome) -> bool:
        """Whether this machine sees all answers, or has waited long enough for them."""
        if saved_answers(self._with.jobs[name]) >= outcome.answers:
            return True
        since = self._late.setdefault(name, time.monotonic())
        if time.monotonic() - since < FILES_LATE_S:
            return False
        self._with.reporter.warn(f"{name}: its node saved {outcome.answers} answers, and fewer are seen from here")
        return True

    def _answered(self, name: str, outcome: Outcome) -> None:
        job = self._with.jobs[name]
        if job.task.flow.mode == "infer":
            self._settle(name, answered_result(job))
            return
        self._with.reporter.begin(name, "judging")
        self._with.here.begin(scoring(job, outcome.devices), lambda found: self._settle(name, found))

    def _is_gone(self, job: ClusterJob, result: NodeResult) -> None:
        """The scheduler runs a job no more: it has done its work, or it was lost."""
        waited = time.monotonic() - (job.gone_since or 0.0)
        if job.open and not result.ended and waited < LATE_S:
            return
        if any(result.outcomes.get(name, Outcome(Fate.FAILED)).fate is Fate.ANSWERED for name in job.open):
            return  # its answers are not all seen yet
        if job.open:
            self._lost(job)
        if not job.open:
            self._left.remove(job)
            job_folder.remove(job.folder)

    def _lost(self, job: ClusterJob) -> None:
        """Submit it again, as often and as long as the options say."""
        written, options, reporter = job.written, self._with.options, self._with.reporter
        why = job.status.reason or "its node failed, it was killed, or its time was up"
        hours = (time.time() - written.submitted) / 3600
        if job_folder.is_stopped(job.folder):
            return self._close_all(job, Stopped(f"stopped by `evalflow stop`; {RESUME}"))
        end = f"job {job.id} ended before its work was done ({why}), and was submitted again"
        if written.resubmitted >= options.max_requeues:
            said = job_folder.last_words(job.folder)
            much = f"{end} {written.resubmitted} times, which is max_requeues{said}; {RESUME}"
            return self._close_all(job, EvalFlowError(much))
        if options.total_time_h is not None and hours >= options.total_time_h:
            return self._close_all(job, EvalFlowError(f"{end} for {hours:.1f} h, which is total_time_h; {RESUME}"))
        try:
            submit_again(job, self._with.scheduler)
        except SchedulerSilent:
            return None  # the next step tries again
        except (EvalFlowError, OSError) as error:
            return self._close_all(
                job, EvalFlowError(f"job {written.id} was lost ({why}), and not taken again: {error}")
            )
        count = f"{job.written.resubmitted} of {options.max_requeues}"
        reporter.warn(f"{written.name}: job {written.id} was lost ({why}); submitted again as {job.id} ({count})")
        self._ask_s = ASK_S
        self._shown.status(job)
        return None

    def _close_all(self, job: ClusterJob, error: EvalFlowError) -> None:
        for name in sorted(job.open):
            self._close(job, name, error)

    def _close(self, job: ClusterJob, name: str, error: EvalFlowError) -> None:
        job.open.discard(name)
        self._settle(name, error)

    def _settle(self, name: str, found: ModelResult | BaseException) -> None:
        settle(self._with.futures.get(name), found)


def settle(future: Future[ModelResult] | None, found: ModelResult | BaseException) -> None:
    """Give a future its result or its error, unless it has one."""
    if future is None or future.done():
        return
    if isinstance(found, BaseException):
        future.set_exception(found)
    else:
        future.set_result(found)
