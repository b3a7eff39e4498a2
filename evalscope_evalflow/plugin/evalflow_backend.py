"""Our entry in the group `evalscope.backends`: what EvalScope calls for `eval_backend: evalflow`.

Such an entry is a callable `(task_config, run_stock) -> result`, where `run_stock(task_config)` runs a stock
task in this process. It may have three more functions: `add_arguments(parser)` for options of `evalscope eval`,
`prepare(values) -> values`, which sees the raw fields of a TaskConfig before they are validated, and `refuse(error)`,
which sees what their validation raises.

This module is imported with EvalScope, so it imports nothing until EvalFlow is asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalscope.config import TaskConfig

    from evalscope_evalflow.config.task import Task

NAME = "evalflow"
GIVEN = "_given"  # which stock fields the user set; kept in eval_config, as TaskConfig itself cannot tell


def run(task_config: TaskConfig, run_stock: Callable[[TaskConfig], Any]) -> Any:
    """Run a task with an `evalflow` section; returns what stock EvalScope's Native backend would."""
    from evalscope_evalflow import sweep
    from evalscope_evalflow.display.output_streams import steady_output
    from evalscope_evalflow.errors import RESUME, EvalFlowError, ExitCode
    from evalscope_evalflow.notebook.cell_reporter import in_notebook, reporter_here
    from evalscope_evalflow.plugin import stock_reports as results
    from evalscope_evalflow.processes.signals import interruptible

    if in_cli():
        steady_output()
    # A notebook's signals are its own; `evalscope eval` would die of them at once, with no word in the record.
    signals = interruptible() if in_cli() else contextlib.nullcontext()
    try:
        task = to_task(task_config)
        task = task.without_keep_alive() if in_cli() else task
        if task.flow.dry_run:
            from evalscope_evalflow.sweep.show_plan import show_plan

            show_plan(task)
            return {}
        with signals:
            outcome = sweep.run(task, reporter_here(verbose=task.flow.verbose))
    except KeyboardInterrupt as error:
        sys.stderr.write(f"evalflow: interrupted; {RESUME}\n")
        if not in_cli():
            raise error.with_traceback(None) from None
        raise SystemExit(int(ExitCode.INTERRUPTED)) from None
    except EvalFlowError as error:
        if not in_cli():
            raise error.with_traceback(None) from None  # what is to be done stands in the message, not in our frames
        sys.stderr.write(f"evalflow: {error}\n")
        raise SystemExit(int(error.exit_code)) from None
    if not in_notebook():  # there, the result is shown where it is the cell's last line
        from evalscope_evalflow.results.tables import show_table, where_to_look

        show_table(outcome.rows())
        sys.stdout.write(where_to_look(task) + "\n")
    if in_cli() and outcome.exit_code:
        raise SystemExit(int(outcome.exit_code))
    task_config.work_dir = str(task.work_dir)
    return results.to_stock(outcome)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ours for `evalscope eval`."""
    parser.add_argument(
        "--evalflow",
        default=None,
        metavar="FILE|JSON",
        help="EvalFlow's section: a YAML or JSON file, or JSON.",
    )


def prepare(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fold the `evalflow` section into `eval_config`, the one field of TaskConfig that stock EvalScope keeps free.

    Raises:
        ConfigError: the section is wrong. (In `evalscope eval`: SystemExit, with the message on standard error.)
    """
    if NAME not in values and str(values.get("eval_backend", "")).lower() != NAME:
        return values
    from evalscope_evalflow.errors import EvalFlowError

    try:
        return _prepare(values)
    except EvalFlowError as error:
        if not in_cli():
            raise error.with_traceback(None) from None  # what is to be done stands in the message, not in our frames
        sys.stderr.write(f"evalflow: {error}\n")
        raise SystemExit(int(error.exit_code)) from None


def refuse(error: Exception) -> None:
    """Say in our way what EvalScope's own validation refuses of a task for us.

    Raises:
        ConfigError: with the place of each problem, and no value. (In `evalscope eval`: SystemExit.)
    """
    from pydantic import ValidationError

    from evalscope_evalflow.errors import ConfigError, Problem

    if isinstance(error, ConfigError):
        return
    if isinstance(error, ValidationError):
        found = error.errors(include_input=False, include_url=False, include_context=False)
        places = [(".".join(map(str, item["loc"])), item["msg"]) for item in found]
    else:
        places = [("", f"{type(error).__name__} in its own checks, of a value of a kind that it does not expect")]
    problems = [Problem(place or "TaskConfig", f"EvalScope does not take it: {said}") for place, said in places]
    refused = ConfigError(*problems)
    if not in_cli():
        raise refused from None
    sys.stderr.write(f"evalflow: {refused}\n")
    raise SystemExit(int(refused.exit_code)) from None


def _prepare(values: Mapping[str, Any]) -> dict[str, Any]:
    from evalscope_evalflow.config import FlowConfig
    from evalscope_evalflow.config.eval_types import eval_type_problem
    from evalscope_evalflow.config.stock_shapes import shape_problems
    from evalscope_evalflow.config.task import expand_models, read_section
    from evalscope_evalflow.errors import ConfigError, Problem

    shapes = list(shape_problems(_plain(values)))
    if shapes:
        raise ConfigError(*shapes)
    values = dict(values)
    section = values.pop(NAME, None)
    backend = values.get("eval_backend") or NAME
    if str(backend).lower() != NAME:
        raise ConfigError(
            Problem("eval_backend", f"is {backend!r}, but there is an `evalflow` section", "Set it to evalflow.")
        )
    config = values.pop("eval_config", None)
    if section is not None and config:
        raise ConfigError(Problem(NAME, "both `evalflow` and `eval_config` are given", "Keep one of them."))
    given = [name for name, value in values.items() if value is not None]
    if isinstance(config, str) and not config.lstrip().startswith("{"):
        section, given, values = _merge_file(config, values)
    elif config:
        section = dict(read_section(config))
        given = section.pop(GIVEN, given)  # a TaskConfig that is validated once more
    problem = eval_type_problem(values.get("eval_type")) if "eval_type" in given else None
    if problem:
        raise ConfigError(problem)
    flow = FlowConfig.parse(expand_models(read_section(section)), NAME)
    folded = flow.to_section()
    if values.pop("dry_run", None):  # stock `run_task` would return before we are asked
        folded["dry_run"] = True
    values["eval_config"] = {**folded, GIVEN: given}
    values["eval_backend"] = NAME
    values["eval_type"] = "openai_api"
    return values


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are as a file holds them: objects of EvalScope's own are right, and its to look at."""
    return {name: value for name, value in values.items() if not hasattr(value, "model_dump")}


def _merge_file(path: str, values: dict[str, Any]) -> tuple[Any, list[str], dict[str, Any]]:
    """`--eval-config FILE`: the file holds the section, or a whole task, over which explicit options win."""
    from evalscope_evalflow.config.task import read_section, with_backend
    from evalscope_evalflow.config.task_file import read_mapping, with_data_beside

    data = with_data_beside(read_mapping(path), path)
    explicit = _explicit(values)
    if NAME not in data:
        return data, list(explicit), values
    section = with_backend(read_section(data.pop(NAME)), data.pop("eval_backend", None))
    merged = {**values, **data, **explicit}
    return section, [*data, *explicit], merged


def _explicit(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the user gave, without those that are only argparse's defaults."""
    given = {name: value for name, value in values.items() if value is not None}
    if not in_cli():
        return given
    from evalscope.arguments import add_argument

    parser = argparse.ArgumentParser()
    add_argument(parser)
    defaults = vars(parser.parse_args([]))
    options = {word.split("=")[0] for word in sys.argv}
    return {
        name: value
        for name, value in given.items()
        if value != defaults.get(name) or "--" + name.replace("_", "-") in options
    }


def in_cli() -> bool:
    """Whether this process is `evalscope eval`, which shows errors and exit codes; a library raises."""
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    return (program in ("evalscope", "cli.py", "__main__.py") and sys.argv[1:2] == ["eval"]) or (
        program == "run.py" and "evalscope" in sys.argv[0]
    )


def to_task(task_config: TaskConfig) -> Task:
    """Our Task, of a validated TaskConfig.

    Raises:
        ConfigError: it cannot work.
    """
    from evalscope_evalflow.config import FlowConfig
    from evalscope_evalflow.config.task import Task
    from evalscope_evalflow.plugin.stock_reports import stock_values

    section = dict(task_config.eval_config or {})
    given = set(section.pop(GIVEN, ()))
    return Task.parse(stock_values(task_config, given), FlowConfig.parse(section, NAME))


# Found by EvalScope's side through the entry point's callable.
run.add_arguments = add_arguments  # type: ignore[attr-defined]
run.prepare = prepare  # type: ignore[attr-defined]
run.refuse = refuse  # type: ignore[attr-defined]
