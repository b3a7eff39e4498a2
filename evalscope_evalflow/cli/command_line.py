"""The `evalflow` command. `evalflow COMMAND …`, or bare flags, which mean a run."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import TextIO

from evalscope_evalflow.cli.hide_keys import hide_keys
from evalscope_evalflow.cli.parser import Parser, WrongArguments, normalise
from evalscope_evalflow.display.output_streams import steady_output
from evalscope_evalflow.errors import RESUME, ConfigError, EvalFlowError, ExitCode, Problem, nearest
from evalscope_evalflow.processes.signals import interruptible
from evalscope_evalflow.results.json_output import alone, print_error
from evalscope_evalflow.terminal_text import printable

COMMANDS: dict[str, str] = {
    "run": "run a task from a YAML or JSON file",
    "watch": "evaluate checkpoints as training writes them",
    "check": "check such a task and print its plan; start nothing",
    "demo": "fetch a small model, evaluate it on two small benchmarks, here and now",
    "init": "write a commented YAML file to begin with",
    "show": "show scores and samples of finished and unfinished runs",
    "compare": "compare finished runs with a baseline, sample by sample",
    "gate": "decide by a policy whether a run may follow its baseline",
    "logs": "print what a run's engine and worker have said",
    "ps": "list your runs on this machine",
    "stop": "end a run; its owner, such as a notebook's kernel, lives on",
    "clean": "clean up after runs that were killed, guards and all",
    "doctor": "check this installation, its engines, devices and leftovers",
    "completion": "print a script that completes commands and flags in a shell",
}
# Commands whose file is not called like them: `run` is the name of a package.
_FILES = {"run": "run_file"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; default: this process's.

    Returns:
        The exit code: 0 complete, 1 failed, 2 bad configuration, 3 finished but incomplete, 4 a gate blocks,
        130 interrupted.
    """
    try:
        if argv is not None:
            return _with_output(list(argv))
        steady_output()
        warnings.showwarning = _show_warning
        with interruptible():
            hide_keys()
            return _with_output(sys.argv[1:])
    except EvalFlowError as error:
        sys.stderr.write(f"evalflow: {error}\n")
        return int(error.exit_code)
    except OSError as error:  # of a file that is no run folder's: those are told of where they happen
        sys.stderr.write(f"evalflow: {error}\n    See to that, and run the same command again.\n")
        return int(ExitCode.FAILED)
    except KeyboardInterrupt:
        sys.stderr.write(f"evalflow: interrupted; {RESUME}\n")
        return int(ExitCode.INTERRUPTED)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of ours as one line; those of libraries as Python prints them."""
    ours = filename.startswith(os.path.dirname(os.path.dirname(__file__)))
    text = f"evalflow: {message}\n" if ours else warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(printable(text))


def _with_output(argv: list[str]) -> int:
    """Run the command; with `--json`, standard output holds one document and nothing else, also where it fails."""
    if "--json" not in argv or not {"-h", "--help", "--version"}.isdisjoint(argv):
        return int(_dispatch(argv))
    name = argv[0] if argv[0] in COMMANDS else "run" if argv[0].startswith("-") else "error"
    if name == "run" and not {"--dry_run", "--dry-run"}.isdisjoint(argv):
        name = "check"
    with alone(name):
        try:
            return int(_dispatch(argv))
        except WrongArguments as wrong:
            print_error(name, ConfigError(wrong.problem), ExitCode.BAD_CONFIG)
            raise


def _dispatch(argv: list[str]) -> int:
    if argv and argv[0] in COMMANDS:
        return _run_command(argv[0], argv[1:])
    if argv and os.path.isfile(argv[0]):
        raise ConfigError(Problem(argv[0], "is a file, not a command", f"Did you mean: evalflow run {argv[0]}"))
    if argv and not argv[0].startswith("-"):
        known = f"{nearest(argv[0], list(COMMANDS))} Known: {', '.join(COMMANDS)}".strip()
        raise ConfigError(Problem(argv[0], "unknown command", known))
    from evalscope_evalflow.cli.run_flags import run_flags

    return run_flags(argv, COMMANDS)


def module_of(name: str) -> str:
    """The module of a command: it has `add_arguments(parser)` and `main(args)`."""
    return f"evalscope_evalflow.cli.{_FILES.get(name, name)}"


def _run_command(name: str, argv: list[str]) -> int:
    command = import_module(module_of(name))
    parser = Parser(prog=f"evalflow {name}", description=COMMANDS[name], allow_abbrev=False)
    command.add_arguments(parser)
    return int(command.main(parser.parse_args(normalise(argv, parser))))
