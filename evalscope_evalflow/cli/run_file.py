"""`evalflow run FILE`."""

from __future__ import annotations

import argparse

from evalscope_evalflow.cli.execute import detach, execute, task_from_file
from evalscope_evalflow.cli.export_flag import add_export, with_exporters
from evalscope_evalflow.cli.parser import add_file, add_json
from evalscope_evalflow.cli.watch import add_watching, execute_watch, refuse_watching_flags
from evalscope_evalflow.errors import ConfigError, Problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    add_export(parser)
    add_json(parser)
    parser.add_argument("--dry_run", action="store_true", help="check the task and print its plan; start nothing")
    help_text = "submit the models to the executor's cluster, and leave them: the same command without it comes back"
    parser.add_argument("--detach", action="store_true", help=help_text)
    parser.add_argument("--watch", action="store_true", help="go on while new checkpoints appear, as `evalflow watch`")
    add_watching(parser)


def main(args: argparse.Namespace) -> int:
    """Run the task in a file."""
    task = with_exporters(task_from_file(args.file, args.work_dir), args.export)
    if args.detach and args.watch:
        what = "do not go together: whoever watches has to stay"
        raise ConfigError(Problem("--detach, --watch", what, "Leave one out."))
    if args.detach and not args.dry_run:
        return detach(task)
    if args.watch and not args.dry_run:
        return execute_watch(task, args)
    refuse_watching_flags(args)
    return execute(task, verbose=args.verbose, check=args.dry_run, as_json=args.json)
