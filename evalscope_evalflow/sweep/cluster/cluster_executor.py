"""What executors with a cluster behind them have in common: a subclass names its scheduler and its options."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any

from evalscope_evalflow.config import PluginChoice
from evalscope_evalflow.config.plugin_options import PluginOptions
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.errors import RESUME, ConfigError, EvalFlowError, Problem, Stopped
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.sweep.cluster import submitted_here
from evalscope_evalflow.sweep.cluster.adoption import cancel_and_wait, end_others, look_back
from evalscope_evalflow.sweep.cluster.cluster_follower import ClusterFollower, Followed, settle
from evalscope_evalflow.sweep.cluster.cluster_job import ClusterJob, submit_units
from evalscope_evalflow.sweep.cluster.cluster_options import ClusterOptions
from evalscope_evalflow.sweep.cluster.cluster_work import (
    Unit,
    answering,
    groups_of,
    host_problems,
    identity,
    key_problems,
    runs_on_cluster,
)
from evalscope_evalflow.sweep.cluster.here_jobs import HereJobs
from evalscope_evalflow.sweep.cluster.scheduler import Scheduler
from evalscope_evalflow.sweep.cluster.shared_paths import shared_folders
from evalscope_evalflow.sweep.cluster.submitter_claim import SubmitterClaim
from evalscope_evalflow.sweep.device_needs import Offer
from evalscope_evalflow.sweep.executors.base import Executor
from evalscope_evalflow.sweep.job import Job

END_S = 5.0  # that `close` waits for jobs whose work is done


class ClusterExecutor(Executor):
    """Answers on a cluster; scores and judges here. A subclass has `name`, `Options` and `make_scheduler`."""

    on_this_machine = False
    can_detach = True
    interface_version = 1

    class Options(ClusterOptions):
        """The common options alone."""

    def __init__(self, reporter: LiveReporter, options: PluginOptions | None = None) -> None:
        super().__init__(reporter, options)
        self._lock = threading.Lock()  # nothing is submitted while everything is being ended
        self._cancelled = False
        self._claim: SubmitterClaim | None = None
        self._follower: ClusterFollower | None = None
        self._cluster_jobs: list[ClusterJob] = []
        self._here: HereJobs | None = None
        self._futures: dict[str, Future[ModelResult]] = {}

    @abstractmethod
    def make_scheduler(self) -> Scheduler:
        """The cluster's scheduler, by `self.options`.

        Raises:
            ConfigError: it cannot be reached, or what it needs is not installed; the message says what to do.
        """

    @cached_property
    def scheduler(self) -> Scheduler:
        """The cluster's scheduler."""
        return self.make_scheduler()

    @property
    def cluster_options(self) -> ClusterOptions:
        """The options that every cluster has."""
        assert isinstance(self.options, ClusterOptions)
        return self.options

    @cached_property
    def offer(self) -> Offer:
        """What one job can be given.

        Raises:
            ConfigError: it is not declared, and the cluster cannot be asked.
        """
        found = self.cluster_options.offer(None)
        if found is None or found.device_bytes is None:
            found = self.cluster_options.offer(self.scheduler.offer())
        assert found is not None
        return found

    def check(self, jobs: Sequence[Job]) -> list[Problem]:
        wanted = [job for job in jobs if runs_on_cluster(job)]
        found: list[Problem] = []
        for job in wanted:
            found += [*key_problems(answering(job), self.cluster_options.pass_env), *host_problems(job)]
        if not wanted:
            return found
        try:
            where = f"executor {self.name}"
            problems = self.scheduler.problems(shared_folders(wanted))
            found += [Problem(where, *_in_two(problem)) for problem in problems]
            if not problems:
                found += self._too_large(wanted)
        except ConfigError as error:
            found += error.problems
        return list(dict.fromkeys(found))

    def _too_large(self, jobs: Sequence[Job]) -> list[Problem]:
        """Of jobs that fit no node, why."""
        found: list[Problem] = []
        for job in jobs:
            try:
                job.needs(self.offer)
            except ConfigError as error:
                found += error.problems
        return found

    def submit(self, jobs: Sequence[Job]) -> list[Future[ModelResult]]:
        self._futures = {job.model.name: Future() for job in jobs}
        if not jobs:
            return []
        elsewhere = {job.model.name: job for job in jobs if runs_on_cluster(job)}
        at_once = max(job.size.verdicts_at_once for job in jobs)
        with self._lock:
            self._here = here = HereJobs(self.reporter, at_once, self._stopped_here)
            if elsewhere:
                self._submit(list(elsewhere.values()))
                followed = Followed(
                    self.scheduler,
                    self.cluster_options,
                    elsewhere,
                    self._futures,
                    self._cluster_jobs,
                    here,
                    self.reporter,
                )
                self._follower = ClusterFollower(followed)
                self._follower.start()
        for job in jobs:
            if job.model.name not in elsewhere:
                self._begin_here(here, job)
        return list(self._futures.values())

    def detach(self, jobs: Sequence[Job]) -> list[str]:
        elsewhere = [job for job in jobs if runs_on_cluster(job)]
        rest = [job.model.name for job in jobs if not runs_on_cluster(job)]
        with self._lock:
            if elsewhere:
                self._submit(elsewhere)
        submitted, self._cluster_jobs = self._cluster_jobs, []
        self._release_claim()
        folder = jobs[0].task.work_dir
        lines = [
            f"{len(submitted)} cluster jobs of {len(elsewhere)} models are queued or running, and go on without this "
            "command.",
            f"See them: evalflow ps {folder}   End them: evalflow stop {folder}",
            "Run the same command again, without --detach, to follow them and to score what they answer.",
        ]
        if rest:
            lines.append(f"Not begun, as it runs where the command does: {', '.join(rest)}.")
        return lines

    def cancel(self) -> None:
        self._cancelled = True
        with self._lock:
            here, follower, jobs = self._here, self._follower, self._cluster_jobs
        if follower is not None:
            follower.request_cancel()
        if here is not None:
            here.cancel()
        if follower is not None:
            follower.cancel()
        elif jobs:
            cancel_and_wait(jobs, self.scheduler, self.reporter.warn)
        for future in self._futures.values():
            settle(future, Stopped.all(f"interrupted; {RESUME}"))
        self._release_claim()

    def close(self) -> None:
        if self._here is not None:
            self._here.close()
        if self._follower is not None:
            self._follower.join(END_S)
            self._follower.abandon(EvalFlowError("nobody waits for it any more"))
            self._follower.join()
        self._release_claim()
        if "scheduler" in self.__dict__:
            self.scheduler.close()

    def _submit(self, jobs: Sequence[Job]) -> None:
        """Adopt what runs already, and submit the rest.

        Raises:
            ConfigError: another process follows this folder's jobs, other jobs are in the way, or the cluster refuses.
            Stopped: everything was cancelled meanwhile.
        """
        work_dir = jobs[0].task.work_dir
        self._claim = SubmitterClaim(work_dir, self._claim_lost)
        try:
            submitted_here.remember(work_dir)
            self._adopt_and_submit(jobs, work_dir)
        except BaseException:
            self._release_claim()
            raise

    def _adopt_and_submit(self, jobs: Sequence[Job], work_dir: Path) -> None:
        scheduler, warn = self.scheduler, self.reporter.warn
        wanted = {job.model.name: answering(job) for job in jobs}
        identities = {name: identity(job) for name, job in wanted.items()}
        earlier = look_back(work_dir, identities, self.name, scheduler, warn)
        end_others(earlier.others, scheduler, self.reporter.ask, warn)
        adopted = {name for job in earlier.adopted for name in job.written.models}
        left = [job for job in jobs if job.model.name not in adopted]
        units = [
            Unit(tuple(wanted[job.model.name] for job in group), max(job.needs(self.offer) for job in group))
            for group in groups_of(left)
        ]
        units.sort(key=lambda unit: -sum(job.size.engine_s(unit.devices) for job in unit.jobs))  # the longest first
        if self._cancelled:
            raise Stopped.all("interrupted before it began")
        made = submit_units(units, scheduler, work_dir, self._choice())
        self._cluster_jobs = [*earlier.adopted, *made]
        if earlier.adopted:
            self.reporter.log(f"{len(earlier.adopted)} cluster jobs of an earlier run are adopted")
        if made:
            self.reporter.log(f"{len(made)} cluster jobs are submitted: evalflow ps {work_dir}")

    def _choice(self) -> Any:
        """Name and options, as in the section."""
        choice = PluginChoice.model_validate({"name": self.name, **self.options.to_section()})
        return choice.model_dump(mode="json")

    def _begin_here(self, here: HereJobs, job: Job) -> None:
        future = self._futures[job.model.name]
        here.begin(job, lambda found: settle(future, found))

    def _stopped_here(self) -> None:
        """`evalflow stop --all` has ended something here: the cluster's jobs end as well."""
        threading.Thread(target=self.cancel, daemon=True, name="evalflow stop").start()

    def _claim_lost(self) -> None:
        what = "another evalflow follows this folder's cluster jobs now; they go on"
        if self._follower is not None:
            self._follower.abandon(EvalFlowError(what))

    def _release_claim(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.release()


def _in_two(problem: str) -> tuple[str, str]:
    """A scheduler's problem: what is wrong, and, behind the first line, what to do."""
    what, _, todo = problem.partition("\n")
    return what, todo
