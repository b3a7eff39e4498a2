"""What `run`, `check`, `demo` and bare flags end in: check or run a task, and print the outcome."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.cli.json_documents import check_document, run_document
from evalscope_evalflow.errors import ExitCode
from evalscope_evalflow.results.json_output import print_document
from evalscope_evalflow.terminal_text import printable

if TYPE_CHECKING:
    from evalscope_evalflow.config.task import Task


def task_from_file(path: str, work_dir: str | None) -> dict[str, Any]:
    """The task in a file.

    Args:
        path: YAML or JSON.
        work_dir: replaces the file's own.

    Raises:
        ConfigError: the file cannot be read.
    """
    from evalscope_evalflow.config.task_file import read_mapping, with_data_beside

    data = with_data_beside(read_mapping(path), path)
    return {**data, "work_dir": work_dir} if work_dir else data


def execute(data: dict[str, Any], *, verbose: bool, check: bool, as_json: bool = False) -> int:
    """Run a task and print its results, or print its plan.

    Args:
        data: the task, as a YAML file holds it.
        verbose: whether to show what EvalScope prints.
        check: only check the task and print its plan.
        as_json: print one JSON document instead.

    Returns:
        The exit code.

    Raises:
        EvalFlowError: the task cannot work, or failed as a whole.
    """
    from evalscope_evalflow.config.task import Task

    task = Task.parse(data).without_keep_alive()
    if check or task.flow.dry_run or data.get("dry_run"):
        return _check(task, as_json)
    from evalscope_evalflow import sweep
    from evalscope_evalflow.display.reporter import Reporter
    from evalscope_evalflow.results.tables import show_table, where_to_look

    result = sweep.run(task, Reporter(forward=verbose or task.flow.verbose))
    if as_json:
        print_document("run", run_document(result), result.exit_code)
        return result.exit_code
    show_table(result.rows())
    sys.stdout.write(printable(where_to_look(task)) + "\n")
    return result.exit_code


def detach(data: dict[str, Any]) -> int:
    """Submit a task's models to a cluster, and leave them there.

    Args:
        data: the task, as a YAML file holds it.

    Returns:
        The exit code: 0, they are submitted, or nothing is left to do.

    Raises:
        EvalFlowError: the task cannot work, or its executor runs nothing on its own.
    """
    from evalscope_evalflow.config.task import Task
    from evalscope_evalflow.display.reporter import Reporter
    from evalscope_evalflow.sweep import runner

    lines = runner.detach(Task.parse(data).without_keep_alive(), Reporter())
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return ExitCode.COMPLETE


def _check(task: Task, as_json: bool) -> int:
    from evalscope_evalflow.sweep import show_plan

    if as_json:
        print_document("check", check_document(show_plan.check(task)))
    else:
        show_plan.show_plan(task)
    return ExitCode.COMPLETE
