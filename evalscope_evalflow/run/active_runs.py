"""The runs of this user on this machine: `evalflow ps`, `stop` and `clean`, and what a run says of others."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from evalscope_evalflow.errors import ConfigError, EvalFlowError, Problem, nearest
from evalscope_evalflow.processes import cleanup, registry
from evalscope_evalflow.processes.cleanup import Cleaned
from evalscope_evalflow.processes.registry import Entry, ProcessId
from evalscope_evalflow.state import record

STOP_TIMEOUT_S = 60.0  # a guard needs up to 5 s of grace and 30 s of killing; its owner then tidies up
CLEAN_WAIT_S = 60.0  # for another process that cleans up at the same time


def clean_up_orphans(tell: Callable[[str], None]) -> None:
    """Before a run: clean up after those that died without a guard. It must not fail the run.

    Args:
        tell: is called with a line for each thing that the user should know.
    """
    try:
        for cleaned in _clean():
            tell(str(cleaned))
    except OSError as error:
        tell(f"runs are not written down, so that `evalflow ps` does not show them: {error}")


def folder_in_use(folder: Path) -> Problem:
    """What to say of a run folder that is locked by another run."""
    found = record.read(folder) or {}
    if found.get("state") != "running":  # it has only just begun, or a process outlived it
        return Problem("work_dir", f"{folder} is in use by another run", "Wait for it, or choose another folder.")
    who = f"{found.get('run_id')} (PID {found.get('pid')} on {found.get('host')}, since {found.get('started')})"
    return Problem(
        "work_dir",
        f"{folder} is in use by another run: {who}",
        f"Wait for it (`evalflow ps`), end it (`evalflow stop {found.get('run_id')}`), or choose another folder.",
    )


def refuse_folders_in_use(folders: Iterable[Path]) -> None:
    """See to it, before anything is started, that no other run has one of these run folders.

    Raises:
        ConfigError: with each that is in use, and by whom.
    """
    problems = []
    for folder in folders:
        path = folder / "evalflow" / "run.lock"
        if not path.exists():
            continue
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            problems.append(folder_in_use(folder))
    if problems:
        raise ConfigError(*problems)


def show(console: Console | None = None) -> None:
    """Print what runs.

    Raises:
        EvalFlowError: the registry cannot be read.
    """
    console = _console(console)
    try:
        for cleaned in _clean():
            console.print(escape(str(cleaned)), style="yellow")
        running = _running()
    except OSError as error:
        raise _unreadable(error) from error
    if not running:
        console.print("Nothing runs.")
        return
    table = Table(header_style="bold")
    for column in ("run", "model", "engine", "URL", "devices", "phase", "since", "owner", "work folder"):
        table.add_column(column, overflow="fold", no_wrap=column == "run")  # nothing is cut off; `stop` takes the first
    for entry in running:
        phase = entry.phase if entry.state == "running" else "ending: its owner died"
        table.add_row(
            *map(escape, (entry.run_id, entry.model, entry.engine, entry.api_url, entry.devices, phase)),
            age(time.time() - entry.phase_since), f"PID {entry.owner.pid}", escape(str(entry.work_dir or "")),
        )  # fmt: skip
    console.print(table)


def stop(which: str | None, console: Console | None = None) -> bool:
    """End runs, and wait until they are gone. Their owners, such as a notebook's kernel, live on.

    Args:
        which: a run's id, the beginning of one, or a model's name; None: all.

    Returns:
        Whether all of it is gone.

    Raises:
        ConfigError: there is no such run.
        EvalFlowError: the registry cannot be read.
    """
    console = _console(console)
    try:
        running = _running()
        chosen = running if which is None else [_choose(which, running)]
        if not chosen:
            console.print("Nothing runs.")
        number = registry.STOP_ALL if which is None else registry.STOP
        for entry in chosen:  # all of them before one is waited for: their owner may begin others
            _tell(entry, number)
        gone = [_stop(entry, console, number) for entry in chosen]
    except OSError as error:
        raise _unreadable(error) from error
    return all(gone)


def clean(console: Console | None = None) -> bool:
    """Clean up after runs that died, guards and all; print what was done.

    Returns:
        Whether nothing is left now.

    Raises:
        EvalFlowError: the registry cannot be read.
    """
    console = _console(console)
    try:
        done = _clean(CLEAN_WAIT_S)
        left = cleanup.stale()
        running = len(_running())
    except OSError as error:
        raise _unreadable(error) from error
    for cleaned in done:
        console.print(escape(str(cleaned)))
    if not done and not left:
        console.print("Nothing was left behind." + (f" {running} run(s) go on: evalflow ps" if running else ""))
    for entry in left:
        console.print(f"run {entry.run_id} could not be cleaned up: see {registry.path_of(entry.run_id)}", style="red")
    return not left


def age(seconds: float) -> str:
    """A length of time, in words."""
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _clean(wait_s: float = 0) -> list[Cleaned]:
    """Clean up, and write it down in the records of what died."""
    done = cleanup.clean(wait_s)
    for cleaned in done:
        if cleaned.entry.work_dir is not None:
            record.mark_dead(cleaned.entry.work_dir, cleaned.entry.run_id)
    return done


def _running() -> list[Entry]:
    return [entry for entry in registry.entries() if entry.state in ("running", "ending")]


def _choose(which: str, running: Sequence[Entry]) -> Entry:
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
    raise ConfigError(
        Problem(which, "no such run", f"{nearest(which, [*ids, *(e.model for e in running)])} There is: {listed}")
    )


def _tell(entry: Entry, number: signal.Signals) -> None:
    """Have a run's guards end what they guard; its owner hears of it, and takes it for a wish."""
    for process in entry.guards:
        process.send(number)


def _stop(entry: Entry, console: Console, number: signal.Signals = registry.STOP) -> bool:
    signalled: list[ProcessId] = []

    def gone() -> bool:
        found = next((other for other in registry.entries() if other.run_id == entry.run_id), None)
        if found is None:
            return True
        if found.state == "stale":  # its owner died, too
            _clean()
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
        + (f"its guards (PIDs {', '.join(map(str, living))}) go on" if living else "its engine and worker are gone")
        + f"; its owner is PID {entry.owner.pid}.",
        style="red",
    )
    return False


def _console(console: Console | None) -> Console:
    console = console or Console(emoji=False, highlight=False)
    if not console.is_terminal:
        console = Console(
            file=console.file, emoji=False, highlight=False, width=200
        )  # a file has no width; rich would take 80
    return console


def _unreadable(error: OSError) -> EvalFlowError:
    return EvalFlowError(f"it is not known what runs on this machine: {error}")
