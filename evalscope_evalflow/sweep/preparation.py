"""Everything that is checked before a task is run or its plan is shown: the section's plug-ins, and preflight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evalscope_evalflow.config.one_pass import one_pass
from evalscope_evalflow.config.plugin_options import PluginOptions
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.results.exporters import Exporter, load_exporters
from evalscope_evalflow.run.preflight import preflight
from evalscope_evalflow.run.resume import Survey
from evalscope_evalflow.sweep.adapter_groups import with_bases
from evalscope_evalflow.sweep.executors import Executor, load_executor
from evalscope_evalflow.sweep.incomplete import without_incomplete
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.jobs import jobs_of


@dataclass(frozen=True)
class Prepared:
    """A task that can run.

    Attributes:
        task: the task, without the models that are left out.
        skipped: why each of those is left out, by its name.
        executor: what runs its jobs.
        options: the executor's.
        exporters: what writes its results, in the section's order.
        survey: what is left to do of each model.
        notes: what is no obstacle, but should be known.
    """

    task: Task
    skipped: dict[str, str]
    executor: type[Executor]
    options: PluginOptions
    exporters: tuple[Exporter, ...]
    survey: Survey
    notes: tuple[str, ...]

    def start_executor(self, reporter: LiveReporter) -> Executor:
        """The executor, ready for jobs."""
        return self.executor(reporter, self.options)


def prepare(task: Task, log: Callable[[str], None]) -> Prepared:
    """Check a task.

    Args:
        task: the task.
        log: is called with a line about each check that takes longer than a moment.

    Raises:
        ConfigError: with every problem found; nothing was started.
    """
    with one_pass():
        return _prepare(task, log)


def _prepare(task: Task, log: Callable[[str], None]) -> Prepared:
    task, skipped = without_incomplete(with_bases(task))
    problems: list[Problem] = []
    executor: tuple[type[Executor], PluginOptions] | None = None
    try:
        executor = load_executor(task.flow.executor)
    except ConfigError as error:
        problems += error.problems
    if (
        executor is not None
        and task.flow.judge is not None
        and task.flow.mode != "infer"
        and executor[0].name != "local"
    ):
        what = f"the executor {executor[0].name} deploys no judge"
        problems.append(Problem("evalflow.judge", what, "Use executor: local, or `mode: infer` here and then `judge`."))
    exporters: list[Exporter] = []
    try:
        exporters = load_exporters(task.flow.exporters)
    except ConfigError as error:
        problems += error.problems
    survey = Survey(task)
    here = executor is None or executor[0].on_this_machine
    try:
        notes = preflight(task, log, survey, on_this_machine=here)
    except ConfigError as error:
        raise ConfigError(*problems, *error.problems) from None
    if executor is None or problems:
        raise ConfigError(*problems)
    if executor[0].check is not Executor.check:
        problems = _executor_problems(*executor, jobs_of(task, survey))
        if problems:
            raise ConfigError(*problems)
    notes = [*(f"{name} is skipped: {why}" for name, why in skipped.items()), *notes]
    return Prepared(task, skipped, *executor, tuple(exporters), survey, (*task.notes, *notes))


def _executor_problems(kind: type[Executor], options: PluginOptions, jobs: Sequence[Job]) -> list[Problem]:
    """What keeps an executor from running what is left of a task."""
    executor = kind(LiveReporter(Reporter(quiet=True), []), options)
    try:
        return executor.check([job for job in jobs if job.phases])
    finally:
        executor.close()
