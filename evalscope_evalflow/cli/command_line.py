"""The `evalflow` command. `evalflow COMMAND …`, or bare flags, which mean a run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from evalscope_evalflow import __version__
from evalscope_evalflow.cli.flags import (
    FLAGS,
    add_flags,
    hide_key,
    holds_keys,
    is_key_flag,
    mapping_from_flags,
    normalise,
)
from evalscope_evalflow.errors import ConfigError, EvalFlowError, ExitCode, Problem, nearest
from evalscope_evalflow.processes.signals import interruptible

COMMANDS: dict[str, str] = {
    "run": "run a task from a YAML or JSON file",
    "check": "check such a task and print its plan; start nothing",
    "demo": "fetch a small model, evaluate it on two small benchmarks, here and now",
    "init": "write a commented YAML file to begin with",
    "ps": "list what runs on this machine",
    "stop": "end a run; its owner, such as a notebook's kernel, lives on",
    "clean": "clean up after runs that were killed, guards and all",
    "doctor": "look at this installation, its engines, devices and leftovers",
}


class Parser(argparse.ArgumentParser):
    """An argparse parser that names what was probably meant."""

    def error(self, message: str) -> NoReturn:
        hint = ""
        if message.startswith("unrecognized arguments: "):
            known = [option for action in self._actions for option in action.option_strings]
            # Names alone: the value of a flag that is not ours may be a key.
            words = [word.split("=")[0] for word in message.split(": ", 1)[1].split() if word.startswith("-")]
            message = "unknown flag " + ", ".join(words) if words else "there are words that belong to no flag"
            hint = "\n    " + nearest(words[0], known) if words and nearest(words[0], known) else ""
        self.exit(ExitCode.BAD_CONFIG, f"{self.prog}: {message}{hint}\n    All flags: {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; default: this process's.

    Returns:
        The exit code: 0 complete, 1 failed, 2 bad configuration, 3 finished but incomplete, 130 interrupted.
    """
    try:
        if argv is not None:
            return int(_dispatch(list(argv)))
        with interruptible():
            _hide_keys()
            return int(_dispatch(sys.argv[1:]))
    except EvalFlowError as error:
        sys.stderr.write(f"evalflow: {error}\n")
        return int(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("evalflow: interrupted; what was saved is kept, and the same command goes on from it\n")
        return int(ExitCode.INTERRUPTED)


def _dispatch(argv: list[str]) -> int:
    if argv and argv[0] in COMMANDS:
        handler: Callable[[list[str]], int] = globals()[f"_{argv[0]}"]
        return handler(argv[1:])
    if argv and os.path.isfile(argv[0]):
        raise ConfigError(Problem(argv[0], "is a file, not a command", f"Did you mean: evalflow run {argv[0]}"))
    if argv and not argv[0].startswith("-"):
        raise ConfigError(
            Problem(
                argv[0],
                "unknown command",
                f"{nearest(argv[0], list(COMMANDS))} Known: {', '.join(COMMANDS)}".strip(),
            )
        )
    return _flags(argv)


def _flags(argv: list[str]) -> int:
    """Bare flags: a task without a file."""
    commands = "\n".join(f"  evalflow {name:6} {text}" for name, text in COMMANDS.items())
    parser = Parser(
        prog="evalflow",
        usage="evalflow COMMAND …, or evalflow --work_dir DIR --eval_model_name NAME … for a run without a file",
        description="Deploy models, evaluate them with EvalScope, leave nothing behind.\n\n"
        f"commands (evalflow COMMAND --help tells more):\n{commands}",
        epilog="Dashes and underscores mean the same. Exit codes: 0 complete, 1 failed, "
        "2 bad configuration,\n3 finished but incomplete, 130 interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"evalflow {__version__}")
    add_flags(parser)
    if not argv:
        parser.print_help()
        return ExitCode.BAD_CONFIG
    args = parser.parse_args(normalise(argv))
    return _execute(mapping_from_flags(args), verbose=args.verbose, check=args.dry_run)


def _run(argv: list[str]) -> int:
    return _from_file("run", argv)


def _check(argv: list[str]) -> int:
    return _from_file("check", argv)


def _from_file(command: str, argv: list[str]) -> int:
    from evalscope_evalflow.config.task import read_mapping

    parser = Parser(prog=f"evalflow {command}", description=COMMANDS[command], allow_abbrev=False)
    parser.add_argument("file", help="YAML or JSON file")
    parser.add_argument("--work_dir", help="where results go, in place of the file's work_dir")
    parser.add_argument("--verbose", action="store_true", help="show what EvalScope prints")
    if command == "run":
        parser.add_argument("--dry_run", action="store_true", help="check the task and print its plan; start nothing")
    args = parser.parse_args(normalise(argv))
    data = read_mapping(args.file)
    if args.work_dir:
        data["work_dir"] = args.work_dir
    return _execute(data, verbose=args.verbose, check=command == "check" or args.dry_run)


def _execute(data: dict[str, Any], *, verbose: bool, check: bool) -> int:
    from evalscope_evalflow.config.task import Task

    task = Task.parse(data).without_keep_alive()
    if check or task.flow.dry_run or data.get("dry_run"):
        from evalscope_evalflow.sweep.show_plan import show_plan

        show_plan(task)
        return ExitCode.COMPLETE
    from evalscope_evalflow import sweep
    from evalscope_evalflow.display.reporter import Reporter
    from evalscope_evalflow.results.tables import show_table, where_to_look

    result = sweep.run(task, Reporter(forward=verbose))
    show_table(result.rows())
    sys.stdout.write(where_to_look(task) + "\n")
    return result.exit_code


def _demo(argv: list[str]) -> int:
    from evalscope_evalflow.cli import demo

    parser = Parser(prog="evalflow demo", description=COMMANDS["demo"], allow_abbrev=False)
    parser.add_argument("--work_dir", help="where results go; default: a new folder in outputs/")
    parser.add_argument("--verbose", action="store_true", help="show what EvalScope prints")
    args = parser.parse_args(normalise(argv))
    return _execute(demo.task(args.work_dir), verbose=args.verbose, check=False)


def _init(argv: list[str]) -> int:
    from evalscope_evalflow.config.template import write_template

    parser = Parser(prog="evalflow init", description=COMMANDS["init"], allow_abbrev=False)
    parser.add_argument("file", nargs="?", default="evalflow.yaml", help="file to write; default: evalflow.yaml")
    args = parser.parse_args(argv)
    write_template(args.file)
    sys.stdout.write(f"Wrote {args.file}. Edit it, then: evalflow check {args.file}\n")
    return ExitCode.COMPLETE


def _ps(argv: list[str]) -> int:
    from evalscope_evalflow.run import active_runs as runs

    Parser(prog="evalflow ps", description=COMMANDS["ps"], allow_abbrev=False).parse_args(argv)
    runs.show()
    return ExitCode.COMPLETE


def _stop(argv: list[str]) -> int:
    from evalscope_evalflow.run import active_runs as runs

    parser = Parser(prog="evalflow stop", description=COMMANDS["stop"], allow_abbrev=False)
    parser.add_argument("run", nargs="?", help="its id, as `evalflow ps` shows it, or its beginning, or the model")
    parser.add_argument("--all", action="store_true", help="every run of yours on this machine")
    args = parser.parse_args(argv)
    if args.all == bool(args.run):
        raise ConfigError(Problem("stop", "which run?", "evalflow stop RUN, or --all; `evalflow ps` lists them."))
    return ExitCode.COMPLETE if runs.stop(args.run) else ExitCode.FAILED


def _clean(argv: list[str]) -> int:
    from evalscope_evalflow.run import active_runs as runs

    Parser(prog="evalflow clean", description=COMMANDS["clean"], allow_abbrev=False).parse_args(argv)
    return ExitCode.COMPLETE if runs.clean() else ExitCode.FAILED


def _doctor(argv: list[str]) -> int:
    from evalscope_evalflow.cli import doctor

    parser = Parser(prog="evalflow doctor", description=COMMANDS["doctor"], allow_abbrev=False)
    parser.add_argument("--env", metavar="PREFIX", help="look for engines in this environment, too")
    args = parser.parse_args(argv)
    return ExitCode.COMPLETE if doctor.show(args.env) else ExitCode.FAILED


def _hide_keys() -> None:
    """Start anew with keys moved from the arguments, which every user can read, to the environment."""
    arguments = list(sys.orig_argv)
    moved: list[str] = []
    found: dict[str, str] = {}
    for place, word in enumerate(arguments):
        name, given, value = word.partition("=")
        if not is_key_flag(name) and not holds_keys(name):
            continue
        if not given:
            value = arguments[place + 1] if place + 1 < len(arguments) else ""
        hidden = hide_key(name, value, found)
        if hidden == value:
            continue
        moved.append(name)
        if given:
            arguments[place] = f"{name}={hidden}"
        else:
            arguments[place + 1] = hidden
    os.environ.update(found)
    if moved:
        better = "'${VARIABLE}'" if is_key_flag(moved[0]) else """'{"NAME": "${VARIABLE}"}'"""
        sys.stderr.write(
            f"evalflow: a key on the command line ({', '.join(moved)}) can be read by every user of this machine; "
            f"it has been moved out of sight.\n    Better: {moved[0]} {better}, with the key in that variable.\n"
        )
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *arguments[1:]])


__all__ = ["COMMANDS", "FLAGS", "main"]
