"""`evalflow ps`: the runs of this user on this machine, and cluster jobs: those of a folder, or submitted from here."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.markup import escape

from evalscope_evalflow.cli.cluster_lines import jobs_in, jobs_submitted_here, print_jobs
from evalscope_evalflow.cli.json_documents import ps_document
from evalscope_evalflow.cli.parser import add_json
from evalscope_evalflow.cli.terminal import a_console, registry_errors
from evalscope_evalflow.display.run_list import print_runs
from evalscope_evalflow.errors import ExitCode
from evalscope_evalflow.processes import registry
from evalscope_evalflow.results.json_output import print_document
from evalscope_evalflow.run.dead_runs import clean_up_dead_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    help_text = (
        "work_dir of a task, for its cluster jobs, from any host; default: all of yours, on and from this machine"
    )
    parser.add_argument("folder", nargs="?", metavar="DIR", help=help_text)
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    """Print what runs.

    Raises:
        ConfigError: there is no such folder.
    """
    if args.folder is not None:
        jobs = jobs_in(args.folder)
        if args.json:
            print_document("ps", ps_document([], [], jobs))
        elif jobs:
            print_jobs(a_console(None), jobs)
        else:
            a_console(None).print("No cluster job is queued or running.")
        return ExitCode.COMPLETE
    if args.json:
        with registry_errors():
            cleaned = clean_up_dead_runs()
            print_document("ps", ps_document(registry.living(), cleaned, jobs_submitted_here()))
        return ExitCode.COMPLETE
    show_runs()
    return ExitCode.COMPLETE


def show_runs(console: Console | None = None) -> None:
    """Clean up after runs that died, and print those that live.

    Raises:
        EvalFlowError: the registry cannot be read.
    """
    console = a_console(console)
    with registry_errors():
        for cleaned in clean_up_dead_runs():
            console.print(escape(str(cleaned)), style="yellow")
        running, jobs = registry.living(), jobs_submitted_here()
    if not running and not jobs:
        console.print("Nothing runs.")
    if running:
        print_runs(console, running)
    if jobs:
        print_jobs(console, jobs)
