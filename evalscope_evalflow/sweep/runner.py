"""Runs a task: its models as jobs of the executor, then the result exporters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from functools import partial

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import RESUME, EvalFlowError, Stopped
from evalscope_evalflow.results.exporters import export
from evalscope_evalflow.results.outcome import FlowResult, ModelResult
from evalscope_evalflow.results.sweep_files import write_sweep_files
from evalscope_evalflow.run.dead_runs import clean_up_before
from evalscope_evalflow.run.folder_lock import refuse_folders_in_use
from evalscope_evalflow.sweep.cluster.cluster_list import refuse_cluster_jobs
from evalscope_evalflow.sweep.executors.local import Local
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.jobs import jobs_of
from evalscope_evalflow.sweep.preparation import Prepared, prepare


def run(task: Task, reporter: Reporter | None = None) -> FlowResult:
    """Run a task: deploy each model, evaluate it, release it, judge its answers.

    Args:
        task: the task.
        reporter: reports to the user; default: nothing is reported.

    Returns:
        The results of every model. A model that failed carries its error; the others were finished all the same.

    Raises:
        ConfigError: it cannot work; nothing was started.
        Stopped: by `evalflow stop`.
        EvalFlowError: no model could be finished.
    """
    reporter = reporter or Reporter(quiet=True)
    clean_up_before(reporter.warn)
    prepared = prepare(task, reporter.log)
    for note in prepared.notes:
        reporter.warn(note)
    result = run_prepared(prepared, reporter)
    if prepared.task.multi_model:
        write_sweep_files(result, reporter.warn)
    export(result, prepared.exporters, reporter.warn, reporter.log)
    _raise_if_nothing_finished(result)
    return result


def run_prepared(
    prepared: Prepared, reporter: Reporter, finished: Callable[[ModelResult], None] | None = None
) -> FlowResult:
    """Run a task that has been checked; nothing is exported.

    Args:
        prepared: the task.
        reporter: reports to the user.
        finished: is called with each model's result as soon as it is there, in this thread; what it raises ends all.

    Raises:
        ConfigError: a run folder is in use, or a model fits nowhere.
        KeyboardInterrupt: everything was ended.
    """
    task = prepared.task
    finished = finished or (lambda result: None)
    if prepared.executor.on_this_machine:
        refuse_cluster_jobs(task.work_dir)
        refuse_folders_in_use([task.folder(model) for model in task.models])
    jobs = jobs_of(task, prepared.survey)
    if len(jobs) == 1 and prepared.executor is Local and not jobs[0].asks_own_judge:
        found = _outcome(jobs[0], partial(jobs[0].run, reporter))  # in this thread, which Ctrl-C interrupts
        finished(found)
        return FlowResult(task, [found], prepared.skipped)
    return FlowResult(task, _run_all(jobs, prepared, reporter, finished), prepared.skipped)


def detach(task: Task, reporter: Reporter | None = None) -> list[str]:
    """Submit a task's models to a cluster, and leave them there.

    Args:
        task: the task.
        reporter: reports to the user; default: nothing is reported.

    Returns:
        What the user is told: how to see the jobs, to end them and to come back.

    Raises:
        ConfigError: it cannot work; nothing was started.
    """
    reporter = reporter or Reporter(quiet=True)
    prepared = prepare(task, reporter.log)
    for note in prepared.notes:
        reporter.warn(note)
    left = [job for job in jobs_of(prepared.task, prepared.survey) if job.phases]
    if not left:
        return ["Nothing is left to do; the same command without --detach shows the results."]
    executor = prepared.start_executor(reporter.several([job.model.name for job in left]))
    try:
        return executor.detach(left)
    except BaseException:
        executor.cancel()
        raise
    finally:
        executor.close()


def _raise_if_nothing_finished(result: FlowResult) -> None:
    """Raise what ended the run.

    Raises:
        Stopped: everything was stopped.
        EvalFlowError: no model could be finished; of a single model, its own error.
    """
    errors = [item.error for item in result.models if item.error is not None]
    if len(result.models) == 1 and errors:
        raise errors[0]
    if any(isinstance(error, Stopped) and error.everything for error in errors):
        raise Stopped.all(f"stopped by `evalflow stop`; {RESUME}")
    if result.models and len(errors) == len(result.models):
        lines = [f"{item.model.name}: {item.error}" for item in result.models]
        raise EvalFlowError("\n".join(["no model could be finished:", *lines]))


def _run_all(
    jobs: Sequence[Job], prepared: Prepared, reporter: Reporter, finished: Callable[[ModelResult], None]
) -> list[ModelResult]:
    """Each model's result, or the error that ended it.

    Raises:
        KeyboardInterrupt: everything was ended.
    """
    results: dict[str, ModelResult] = {}
    left = [job for job in jobs if job.phases]
    for job in jobs:
        if not job.phases:  # a matter of milliseconds
            results[job.model.name] = _outcome(job, partial(job.run, reporter))
            finished(results[job.model.name])
    with reporter.several([job.model.name for job in left]) as live:
        executor = prepared.start_executor(live)
        try:
            futures = executor.submit(left)
            of = dict(zip(futures, left, strict=True))
            for future in as_completed(futures):  # here: a future's callbacks may come after those that wait for it
                name = of[future].model.name
                live.ended(name, future)
                if isinstance(future.exception(), (EvalFlowError, type(None))):
                    results[name] = _outcome(of[future], future.result)
                    finished(results[name])
        except BaseException:
            executor.cancel()
            raise
        finally:
            executor.close()
    for future in futures:
        if not isinstance(future.exception(), (EvalFlowError, type(None))):
            future.result()  # a fault of this program, which is raised when the others have ended
    return [results[job.model.name] for job in jobs]


def _outcome(job: Job, result: Callable[[], ModelResult]) -> ModelResult:
    """The result of a job, or one that carries the error that ended it."""
    try:
        return result()
    except EvalFlowError as error:
        return ModelResult(job.model, job.task.folder(job.model), error=error)
