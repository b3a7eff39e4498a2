"""What a watched task checks before its first checkpoint is there, and what it writes after each result."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.results.exporters import export, load_exporters
from evalscope_evalflow.results.outcome import FlowResult
from evalscope_evalflow.results.run_folders import find_runs
from evalscope_evalflow.results.sweep_files import write_sweep_files
from evalscope_evalflow.run.host_checks import check_folder
from evalscope_evalflow.sweep.executors import load_executor
from evalscope_evalflow.sweep.watching.found_matches import Match, WatchedTask

_ENDED = ("complete", "incomplete", "failed")
_STAND_IN = "stands-for-a-checkpoint"


def check_task(watched: WatchedTask, log: Callable[[str], None]) -> Task:
    """Check what of a task does not depend on its checkpoints.

    Args:
        watched: the task.
        log: is called with a line about what should be known.

    Returns:
        The task, without models.

    Raises:
        ConfigError: with every problem found.
    """
    entry = {"name": _STAND_IN, "path": "/"}
    task = watched.task([Match(_STAND_IN, "/", "", None, entry)], fixed=False)
    problems = [*check_folder(task.work_dir, log)]
    checks: tuple[Callable[[], object], ...] = (
        lambda: load_executor(task.flow.executor),
        lambda: load_exporters(task.flow.exporters),
        lambda: _check_data(task, log),
    )
    for check in checks:
        try:
            check()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return replace(task, models=())


def _check_data(task: Task, log: Callable[[str], None]) -> None:
    """Check datasets and their data.

    Raises:
        ConfigError: with every problem found.
    """
    backend = load_backend(task.flow.backend)
    problems = [*backend.check(task), *backend.check_data(task, log)]
    if problems:
        raise ConfigError(*problems)


class RoundExports:
    """Writes scores.csv, summary.json and what the section's exporters make, of all models that have ended so far."""

    def __init__(self, task: Task, reporter: Reporter) -> None:
        self._exporters = load_exporters(task.flow.exporters)
        self._reporter = reporter
        self._lock = threading.Lock()
        self._shown = False

    def write(self, result: FlowResult) -> None:
        """Write them in place of earlier ones; what fails is reported, and harms nothing else.

        Checkpoints that were deleted since are in the exports all the same: their run folders are there.

        Args:
            result: the results of this process.
        """
        with self._lock:
            self._write(result)

    def _write(self, result: FlowResult) -> None:
        from evalscope_evalflow.results.exporters.exported_results import of_folder

        write_sweep_files(result, self._reporter.warn)
        if not self._exporters:
            return
        try:
            runs = [run for run in find_runs(result.task.work_dir) if run.state in _ENDED]
        except ConfigError:  # nothing has come to a record yet
            return
        log = (lambda line: None) if self._shown else self._reporter.log
        self._shown = True
        export(of_folder(result.task.work_dir, runs), self._exporters, self._reporter.warn, log)
