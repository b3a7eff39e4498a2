"""`evalflow watch FILE`: evaluate checkpoints as training writes them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from evalscope_evalflow.cli.execute import task_from_file
from evalscope_evalflow.cli.export_flag import add_export, with_exporters
from evalscope_evalflow.cli.json_documents import run_document
from evalscope_evalflow.cli.parser import add_file, add_json
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.results.json_output import print_document

# Flags that stand for settings of `watch`, by their names.
_FLAGS: Mapping[str, tuple[type, str]] = {
    "until": (int, "end when the checkpoint of this step is evaluated"),
    "every": (int, "take only checkpoints whose step is a multiple"),
    "idle_timeout": (float, "end when nothing has changed for so many seconds"),
    "quiet": (float, "seconds that a checkpoint without a marker has to stay unchanged"),
    "poll": (float, "seconds between two looks at the folder"),
    "marker": (str, "file that the trainer writes into a checkpoint when it is whole"),
}
_SETTINGS = {"idle_timeout": "idle_timeout_s", "quiet": "quiet_s", "poll": "poll_s"}
_ONCE = "once"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    add_export(parser)
    add_json(parser)
    add_watching(parser)


def add_watching(parser: argparse.ArgumentParser) -> None:
    """The flags of watching."""
    group = parser.add_argument_group("watching", "in place of the file's `evalflow.watch`")
    group.add_argument("--once", action="store_true", help="evaluate what is whole now, and end, as for cron")
    for name, (kind, text) in _FLAGS.items():
        group.add_argument(f"--{name}", type=kind, metavar=kind.__name__.upper(), help=text)
    group.add_argument("--order", choices=("newest", "oldest"), help="which of several new checkpoints comes first")


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of `watch` that flags give."""
    names = (*_FLAGS, "order")
    return {_SETTINGS.get(name, name): value for name in names if (value := getattr(args, name)) is not None}


def refuse_watching_flags(args: argparse.Namespace) -> None:
    """Refuse flags of watching in a run that does not watch.

    Raises:
        ConfigError: there are some.
    """
    given = [f"--{name}" for name in (_ONCE, *_FLAGS, "order") if getattr(args, name)]
    if given:
        raise ConfigError(
            Problem(", ".join(given), "has a meaning with --watch alone", "Add --watch, or leave it out.")
        )


def main(args: argparse.Namespace) -> int:
    """Watch for the task in a file."""
    task = with_exporters(task_from_file(args.file, args.work_dir), args.export)
    return execute_watch(task, args)


def execute_watch(data: Mapping[str, Any], args: argparse.Namespace) -> int:
    """Watch, and print the results at the end.

    Returns:
        The exit code.

    Raises:
        EvalFlowError: the task cannot work, or everything was stopped.
    """
    from evalscope_evalflow.display.reporter import Reporter
    from evalscope_evalflow.results.tables import show_table, where_to_look
    from evalscope_evalflow.sweep.watching.watcher import watch

    found = watch(data, Reporter(forward=args.verbose), once=args.once, **given_settings(args))
    code = int(found.exit_code)
    if args.json:
        print_document("watch", {**run_document(found.flow), "blocked": found.blocked}, code)
        return code
    show_table(found.flow.rows())
    sys.stdout.write(where_to_look(found.flow.task) + "\n")
    return code
