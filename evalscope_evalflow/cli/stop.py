"""`evalflow stop RUN`: end a run, and wait until nothing of it is left."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from evalscope_evalflow.cli.cluster_lines import jobs_in, jobs_submitted_here
from evalscope_evalflow.cli.terminal import a_console, registry_errors
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.errors import ConfigError, ExitCode, Problem, nearest
from evalscope_evalflow.processes import registry
from evalscope_evalflow.processes.registry import Entry, ProcessId
from evalscope_evalflow.run.dead_runs import clean_up_dead_runs
from evalscope_evalflow.sweep.cluster.cluster_list import ListedJob
from evalscope_evalflow.sweep.cluster.end_jobs import end_jobs

STOP_TIMEOUT_S = 60.0  # a guard needs up to 5 s of grace and 30 s of killing; its owner then tidies up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    help_text = (
        "id of the run, as `evalflow ps` shows it, its beginning, or the model; or a work_dir, for its cluster jobs"
    )
    parser.add_argument("run", nargs="?", help=help_text)
    parser.add_argument(
        "--all", action="store_true", help="every run of yours on this machine, and all cluster jobs submitted from it"
    )


def main(args: argparse.Namespace) -> int:
    """End a run, or all of them."""
    if args.all == bool(args.run):
        raise ConfigError(Problem("stop", "which run?", "evalflow stop RUN, or --all; `evalflow ps` lists them."))
    if args.run and os.path.isdir(user_path(args.run)):
        return stop_jobs(jobs_in(args.run))
    with registry_errors():
        jobs = jobs_submitted_here()
    if args.all and jobs:
        code = stop_jobs(jobs)
        return code if not registry.living() or stop_runs(None) else ExitCode.FAILED
    named = [job for job in jobs if args.run in (job.written.id, job.written.name, *job.left)]
    if named and not any(entry.model == args.run for entry in registry.living()):
        return stop_jobs(named)
    return ExitCode.COMPLETE if stop_runs(args.run) else ExitCode.FAILED


def stop_jobs(jobs: Sequence[ListedJob], console: Console | None = None) -> ExitCode:
    """End cluster jobs, queued or running, and wait until they are gone.

    Raises:
        ConfigError: their scheduler cannot be reached from here.
    """
    console = a_console(console)
    if not jobs:
        console.print("No cluster job is queued or running.")
        return ExitCode.COMPLETE
    end_jobs(jobs, lambda line: console.print(escape(line), style="yellow"))
    count = f"{len(jobs)} cluster job{'s are' if len(jobs) > 1 else ' is'}"
    console.print(f"{count} gone; what was answered is kept.")
    return ExitCode.COMPLETE


def stop_runs(which: str | None, console: Console | None = None) -> bool:
    """End runs, and wait until they are gone. Their owners, such as a notebook's kernel, live on.

    Args:
        which: a run's id, the beginning of one, or a model's name; None: all.

    Returns:
        Whether all of them are gone.

    Raises:
        ConfigError: there is no such run.
        EvalFlowError: the registry cannot be read.
    """
    console = a_console(console)
    with registry_errors():
        running = registry.living()
        chosen = running if which is None else [choose(which, running)]
        if not chosen:
            console.print("Nothing runs.")
        number = registry.STOP_ALL if which is None else registry.STOP
        for entry in chosen:  # all of them before one is waited for: their owner may begin others
            _signal_guards(entry, number)
        gone = [wait_until_gone(entry, console, number) for entry in chosen]
    return all(gone)


def choose(which: str, running: Sequence[Entry]) -> Entry:
    """The run that is meant."""
    for matches in (
        [entry for entry in running if entry.run_id == which],
        [entry for entry in running if entry.run_id.startswith(which)],
        [entry for entry in running if entry.model == which],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            several = ", ".join(entry.run_id for entry in matches)
            raise ConfigError(Problem(which, "could be several runs", f"They are: {several}"))
    if not running:
        raise ConfigError(Problem(which, "no such run", "Nothing runs."))
    ids = [entry.run_id for entry in running]
    listed = ", ".join(f"{entry.run_id} ({entry.model})" for entry in running)
    meant = nearest(which, [*ids, *(entry.model for entry in running)])
    raise ConfigError(Problem(which, "no such run", f"{meant} These run: {listed}".strip()))


def _signal_guards(entry: Entry, number: signal.Signals) -> None:
    """Have a run's guards end what they guard; its owner sees that, and takes it for the user's request."""
    for process in entry.guards:
        process.send(number)


def wait_until_gone(entry: Entry, console: Console, number: signal.Signals = registry.STOP) -> bool:
    """Wait until nothing of a run is left; signal guards that appear meanwhile.

    Returns:
        Whether it is gone within `STOP_TIMEOUT_S`.
    """
    signalled: list[ProcessId] = []

    def gone() -> bool:
        found = next((other for other in registry.entries() if other.run_id == entry.run_id), None)
        if found is None:
            return True
        if found.state == "stale":  # its owner died, too
            clean_up_dead_runs()
            return False
        for process in found.guards:
            if process not in signalled:
                process.send(number)
                signalled.append(process)
        return False

    wait = Retrying(
        retry=retry_if_result(lambda done: not done),
        wait=wait_fixed(0.1),
        stop=stop_after_delay(STOP_TIMEOUT_S),
        retry_error_callback=lambda state: False,
    )
    name = f"run {entry.run_id} ({entry.model})"
    if wait(gone):
        console.print(f"{escape(name)} is stopped; nothing of it runs any more.")
        return True
    living = [process.pid for process in signalled if process.lives]
    console.print(
        f"{escape(name)} is not gone after {STOP_TIMEOUT_S:.0f} s: "
        + (f"its guards (PIDs {', '.join(map(str, living))}) run on" if living else "its engine and worker are gone")
        + f"; its owner is PID {entry.owner.pid}.",
        style="red",
    )
    return False
