"""`evalflow logs RUN`: what a run's engine and worker have printed, of one that runs or of a finished folder."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalscope_evalflow.cli.cluster_lines import job_of_folder, jobs_submitted_here
from evalscope_evalflow.cli.stop import choose
from evalscope_evalflow.cli.terminal import registry_errors
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.errors import ConfigError, ExitCode, Problem
from evalscope_evalflow.processes import registry
from evalscope_evalflow.processes.registry import Entry
from evalscope_evalflow.sweep.cluster import job_folder
from evalscope_evalflow.sweep.cluster.cluster_list import ListedJob
from evalscope_evalflow.terminal_text import printable, printable_log

ROLES = ("engine", "worker")
LINES = 20
POLL_S = 0.25
_BLOCK = 1 << 16
_PLAIN_AGAIN = "\x1b[0m"  # a colour that is begun and not ended must not reach the prompt


@dataclass(frozen=True)
class Logs:
    """The logs of one run.

    Attributes:
        files: those that may exist.
        folder: the run folder; None: it has none, as with `deploy`.
        run_id: of a run that lives; empty: found by its folder.
    """

    files: tuple[Path, ...]
    folder: Path | None
    run_id: str = ""

    def is_live(self) -> bool:
        """Whether a run still writes them.

        Raises:
            OSError: the list of runs cannot be read.
        """
        folder = self.folder.resolve() if self.folder is not None else None
        if folder is not None and job_of_folder(folder) is not None:
            return True
        return any(
            entry.run_id == self.run_id
            or (folder is not None and entry.work_dir and entry.work_dir.resolve() == folder)
            for entry in registry.living()
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run that lives, by its id or its model's name; or a run folder, finished or not")
    parser.add_argument("-n", type=int, default=LINES, metavar="N", help=f"the last N lines of each; default: {LINES}")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added, until the run has ended")
    for role in ROLES:
        parser.add_argument(f"--{role}", action="store_true", help=f"only what the {role} printed")


def main(args: argparse.Namespace) -> int:
    """Print the logs.

    Raises:
        ConfigError: there is no such run, or it has no logs.
        EvalFlowError: the list of runs cannot be read.
    """
    if args.n < 0:
        raise ConfigError(Problem("-n", f"{args.n} is no number of lines", "Give 0 or more."))
    roles = [role for role in ROLES if getattr(args, role)] or list(ROLES)
    with registry_errors():
        found = find_logs(args.run, roles)
        if not args.follow and not any(os.path.isfile(path) for path in found.files):
            where = " and ".join(map(str, found.files))
            raise ConfigError(Problem(args.run, f"there is no log yet: {where}", "-f waits for it."))
        printer = _Printer(found.files)
        printer.print_last(args.n)
        if args.follow:
            _follow(found, printer)
    return ExitCode.COMPLETE


def find_logs(run: str, roles: Sequence[str]) -> Logs:
    """The logs of a run.

    Args:
        run: a run folder, or what `evalflow ps` calls a run that lives: its id, the beginning of one, or its model.
        roles: "engine", "worker" or both.

    Raises:
        ConfigError: there is no such run.
        OSError: the list of runs cannot be read.
    """
    place = user_path(run)
    living = registry.living()
    named = any(run == entry.model or entry.run_id.startswith(run) for entry in living)
    if not named and (os.path.isdir(place) or os.sep in run):
        return _in_folder(place, roles)
    for job in jobs_submitted_here():
        for model in job.left:
            if run in (model, job.written.id, job.written.name):
                return _of_job(job, model if run == model or job.node is None else job.node.model or model, roles)
    try:
        return _of_entry(choose(run, living), roles)
    except ConfigError as error:
        todo = f"{error.problems[0].todo} Of a finished run, give the folder: evalflow logs DIR."
        raise ConfigError(Problem(run, error.problems[0].what, todo)) from None


def _in_folder(place: Path, roles: Sequence[str]) -> Logs:
    from evalscope_evalflow.results.run_folders import find_runs

    runs = [item for item in find_runs(place) if item.folder == place] or find_runs(place)
    if len(runs) > 1:
        listed = "\n    ".join(str(item.folder) for item in runs)
        raise ConfigError(Problem(str(place), f"has {len(runs)} runs", f"Give one of them:\n    {listed}"))
    folder = runs[0].folder
    return Logs(tuple(folder / "evalflow" / f"{role}.log" for role in roles), folder)


def _of_job(job: ListedJob, model: str, roles: Sequence[str]) -> Logs:
    """The logs of a model of a cluster job, and the job's own, where all are asked for."""
    folder = Path(job.written.folders[model])
    files = [folder / "evalflow" / f"{role}.log" for role in roles]
    own = [job.folder / job_folder.LOG] if len(roles) == len(ROLES) else []
    return Logs((*own, *files), folder)


def _of_entry(entry: Entry, roles: Sequence[str]) -> Logs:
    files = []
    for role in roles:
        command = entry.commands.get(role)
        if command is not None:
            files.append(command.log)
        elif entry.work_dir is not None:
            files.append(entry.work_dir / "evalflow" / f"{role}.log")
    if not files:
        raise ConfigError(Problem(entry.run_id, f"has no {' and no '.join(roles)}"))
    return Logs(tuple(files), entry.work_dir, entry.run_id)


class _Printer:
    """Prints files, with a line that names each where there are several."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._places = dict.fromkeys(files, 0)
        self._shown: Path | None = None

    def print_last(self, lines: int) -> None:
        """Print the last lines of each file."""
        for path in self._places:
            try:
                with path.open("rb") as file:
                    data, self._places[path] = _last_lines(file.fileno(), lines)
            except FileNotFoundError:
                continue
            self._print(path, data)

    def print_new(self) -> None:
        """Print what has been added to them."""
        for path, place in self._places.items():
            try:
                with path.open("rb") as file:
                    if os.fstat(file.fileno()).st_size < place:  # a new run has begun a new file
                        place = 0
                    file.seek(place)
                    data = file.read()
                    self._places[path] = file.tell()
            except FileNotFoundError:
                continue
            if data:
                self._print(path, data)

    def _print(self, path: Path, data: bytes) -> None:
        if len(self._places) > 1 and path != self._shown:
            gap = "\n" if self._shown is not None else ""
            sys.stdout.write(f"{gap}==> {printable(str(path))} <==\n")
        self._shown = path
        text = printable_log(data.decode("utf-8", "replace"), colours=sys.stdout.isatty())
        sys.stdout.write(f"{text}{_PLAIN_AGAIN}" if "\x1b" in text else text)
        sys.stdout.flush()


def _last_lines(descriptor: int, lines: int) -> tuple[bytes, int]:
    """The last lines of a file, and its size."""
    size = os.fstat(descriptor).st_size
    place, data = size, b""
    while place and lines and data.count(b"\n") <= lines:
        start = max(0, place - _BLOCK)
        data = os.pread(descriptor, place - start, start) + data
        place = start
    wanted = data.splitlines(keepends=True)[-lines:] if lines else []
    return b"".join(wanted), size


def _follow(found: Logs, printer: _Printer) -> None:
    """Print what is added until nothing writes any more; Ctrl-C ends it before."""
    for _ in _while_live(found):
        printer.print_new()
    printer.print_new()


def _while_live(found: Logs) -> Iterator[None]:
    while found.is_live():
        yield
        time.sleep(POLL_S)  # as tail -f does where files may lie on a network: nothing tells of what others write there
