"""`evalflow clean`: clean up after runs that died, guards and all."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.markup import escape

from evalscope_evalflow.cli.terminal import a_console, registry_errors
from evalscope_evalflow.errors import ExitCode
from evalscope_evalflow.processes import cleanup, registry
from evalscope_evalflow.run.dead_runs import clean_up_dead_runs

CLEAN_WAIT_S = 60.0  # for another process that cleans up at the same time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def main(args: argparse.Namespace) -> int:
    """Clean up; the exit code says whether nothing is left."""
    return ExitCode.COMPLETE if clean_up() else ExitCode.FAILED


def clean_up(console: Console | None = None) -> bool:
    """Clean up after runs that died, and print what was done.

    Returns:
        Whether nothing is left now.

    Raises:
        EvalFlowError: the registry cannot be read.
    """
    console = a_console(console)
    with registry_errors():
        done = clean_up_dead_runs(CLEAN_WAIT_S)
        left = cleanup.stale()
        running = len(registry.living())
    for cleaned in done:
        console.print(escape(str(cleaned)))
    if not done and not left:
        go_on = f" {running} run(s) continue: evalflow ps" if running else ""
        console.print(f"Nothing was left behind.{go_on}")
    for entry in left:
        console.print(f"run {entry.run_id} could not be cleaned up: see {registry.path_of(entry.run_id)}", style="red")
    return not left
