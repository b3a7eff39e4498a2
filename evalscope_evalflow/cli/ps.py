"""`evalflow ps`: the runs of this user on this machine."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.markup import escape

from evalscope_evalflow.cli.json_documents import ps_document
from evalscope_evalflow.cli.parser import add_json
from evalscope_evalflow.cli.terminal import a_console, registry_errors
from evalscope_evalflow.display.run_list import print_runs
from evalscope_evalflow.errors import ExitCode
from evalscope_evalflow.processes import registry
from evalscope_evalflow.results.json_output import print_document
from evalscope_evalflow.run.dead_runs import clean_up_dead_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    """Print what runs."""
    if args.json:
        with registry_errors():
            cleaned = clean_up_dead_runs()
            print_document("ps", ps_document(registry.living(), cleaned))
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
        running = registry.living()
    if not running:
        console.print("Nothing runs.")
        return
    print_runs(console, running)
