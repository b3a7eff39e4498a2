"""`evalflow ps`: the runs of this user on this machine."""

from __future__ import annotations

import argparse
import time

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evalscope_evalflow.cli.json_documents import ps_document
from evalscope_evalflow.cli.parser import add_json
from evalscope_evalflow.cli.terminal import a_console, registry_errors
from evalscope_evalflow.errors import ExitCode
from evalscope_evalflow.processes import registry
from evalscope_evalflow.results.json_output import print_document
from evalscope_evalflow.run.dead_runs import clean_up_dead_runs

_COLUMNS = ("run", "model", "engine", "URL", "devices", "phase", "since", "owner", "work folder")


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
    table = Table(header_style="bold")
    for column in _COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column == "run")  # nothing is cut off; `stop` takes the first
    for entry in running:
        phase = entry.phase if entry.state == "running" else "ending: its owner died"
        table.add_row(
            *map(escape, (entry.run_id, entry.model, entry.engine, entry.api_url, entry.devices, phase)),
            age(time.time() - entry.phase_since), f"PID {entry.owner.pid}", escape(str(entry.work_dir or "")),
        )  # fmt: skip
    console.print(table)


def age(seconds: float) -> str:
    """A length of time, in words."""
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
