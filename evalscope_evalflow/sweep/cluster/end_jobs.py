"""Ends cluster jobs on purpose, from any host that reaches their scheduler: what `evalflow stop` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evalscope_evalflow.config import FlowConfig
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.sweep.cluster.adoption import cancel_and_wait
from evalscope_evalflow.sweep.cluster.cluster_executor import ClusterExecutor
from evalscope_evalflow.sweep.cluster.cluster_job import ClusterJob
from evalscope_evalflow.sweep.cluster.cluster_list import ListedJob
from evalscope_evalflow.sweep.executors import load_executor


def end_jobs(jobs: Sequence[ListedJob], warn: Callable[[str], None]) -> None:
    """Cancel jobs, and wait until their scheduler runs none of them any more. What they have answered is kept.

    Whoever follows them sees that they were ended on purpose, and does not submit them again.

    Args:
        jobs: them, of any executors.
        warn: is called with a line while a scheduler does not answer, or if it takes long.

    Raises:
        ConfigError: a scheduler cannot be reached from here.
    """
    by_choice: dict[str, list[ListedJob]] = {}
    for job in jobs:
        by_choice.setdefault(repr(job.written.executor), []).append(job)
    for group in by_choice.values():
        executor = _executor_of(group[0])
        try:
            keep = bool(group[0].submitter)  # who follows them reads there that they were stopped, and removes them
            ended = [ClusterJob(job.folder, job.written) for job in group]
            cancel_and_wait(ended, executor.scheduler, warn, keep_folders=keep)
        finally:
            executor.close()


def _executor_of(job: ListedJob) -> ClusterExecutor:
    kind, options = load_executor(FlowConfig.parse({"executor": job.written.executor}).executor)
    if not issubclass(kind, ClusterExecutor):
        what = f"its jobs are the executor {job.executor}'s, which is none for a cluster here"
        raise ConfigError(Problem(str(job.work_dir), what))
    return kind(LiveReporter(Reporter(quiet=True), []), options)
