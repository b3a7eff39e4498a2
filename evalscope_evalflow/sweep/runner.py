"""A task, all of it: its models as jobs, on disjoint devices, several at once where there are enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from functools import partial

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import EvalFlowError, Stopped
from evalscope_evalflow.results.outcome import FlowResult, ModelResult
from evalscope_evalflow.run.active_runs import clean_up_orphans, refuse_folders_in_use
from evalscope_evalflow.run.preflight import preflight
from evalscope_evalflow.run.resume import Survey
from evalscope_evalflow.sweep.executors import Executor, load_executor
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.jobs import jobs


def run(task: Task, reporter: Reporter | None = None) -> FlowResult:
    """Do a task: deploy each model, evaluate it, release it, judge its answers.

    Args:
        task: what to do.
        reporter: who says what happens; default: nobody.

    Returns:
        The results of every model. One that failed carries its error; the others were done all the same.

    Raises:
        ConfigError: it cannot work; nothing was started.
        Stopped: by `evalflow stop`.
        EvalFlowError: no model could be finished.
    """
    reporter = reporter or Reporter(quiet=True)
    executor = load_executor(task.flow.executor)
    clean_up_orphans(reporter.warn)
    survey = Survey(task)
    for note in (*task.notes, *preflight(task, reporter.say, survey)):
        reporter.warn(note)
    refuse_folders_in_use([task.folder(model) for model in task.models])
    todo = jobs(task, survey)
    if len(todo) == 1 and task.flow.executor == "local":  # in this thread, which a Ctrl-C interrupts
        return FlowResult(task, [todo[0].run(reporter)])
    results = _many(todo, executor, reporter)
    for result in results:
        if isinstance(result.error, Stopped) and result.error.everything:
            raise Stopped.all(
                "stopped by `evalflow stop`; what was saved is kept, and the same command goes on from it"
            )
    if results and all(result.error is not None for result in results):
        raise EvalFlowError("no model could be finished:\n" + "\n".join(f"{r.model.name}: {r.error}" for r in results))
    return FlowResult(task, results)


def _many(todo: Sequence[Job], executor: type[Executor], reporter: Reporter) -> list[ModelResult]:
    """Each model's result, or the error that ended it.

    Raises:
        KeyboardInterrupt: everything was ended.
    """
    results: list[ModelResult | None] = [None] * len(todo)
    left: list[int] = []
    for number, job in enumerate(todo):
        if job.claim.needs:
            left.append(number)
        else:
            results[number] = _outcome(job, partial(job.run, reporter))  # a matter of milliseconds
    with LiveReporter(reporter, [todo[number].model.name for number in left]) as live:
        runner = executor(live)
        try:
            futures = runner.submit([todo[number] for number in left])
            names = {future: todo[number].model.name for number, future in zip(left, futures, strict=True)}
            for future in as_completed(futures):  # here: a future's callbacks may come after those that wait for it
                live.ended(names[future], future)
        except BaseException:
            runner.cancel()
            raise
    for number, future in zip(left, futures, strict=True):
        results[number] = _outcome(todo[number], future.result)
    return [result for result in results if result is not None]


def _outcome(job: Job, result: Callable[[], ModelResult]) -> ModelResult:
    try:
        return result()
    except EvalFlowError as error:
        return ModelResult(job.model, job.task.folder(job.model), error=error)
