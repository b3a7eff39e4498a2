"""Who runs what on this machine: one small file for every run, kept by its owner, without keys.

It tells `evalflow ps` and `stop` what there is, and whoever starts next what a crash has left behind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import secrets
import signal
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError
from typing_extensions import Self

from evalscope_evalflow.errors import RESUME, EvalFlowError, Stopped
from evalscope_evalflow.processes import guard, orphans
from evalscope_evalflow.processes.private_folder import private_folder

_NEW = ".new"
FOLDER_VARIABLE = "EVALFLOW_RUNTIME_DIR"
END_S = 45.0  # a guard's grace, and its time for killing
# What tells a guard that its run is to end, and that all else of its owner is to end with it.
STOP, STOP_ALL = signal.SIGTERM, signal.SIGHUP
State = Literal["running", "ending", "stale", "foreign"]


class ProcessId(BaseModel):
    """A process, and no other one that has its PID later.

    Attributes:
        pid: its PID.
        start: its start time in clock ticks since boot.
    """

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has this PID now."""
        found = guard.stat(pid)
        return None if found is None else cls(pid=pid, start=found[2])

    @property
    def lives(self) -> bool:
        """Whether it does; a zombie does not."""
        found = guard.stat(self.pid)
        return found is not None and found[2] == self.start and found[0] not in "ZX"

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it lives."""
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(self.pid)
            try:
                if self.lives:  # looked at after the pidfd was made, which stays that process's
                    signal.pidfd_send_signal(fd, number)
            finally:
                os.close(fd)


class Command(BaseModel):
    """A command under its guard.

    Attributes:
        run_id: as it stands in its environment.
        scratch: its private folder.
        log: its output.
        guard: None until it is started.
        left: PIDs that survived SIGKILL.
    """

    run_id: str
    scratch: Path
    log: Path
    guard: ProcessId | None = None
    left: list[int] = Field(default_factory=list)


class Entry(BaseModel):
    """One run, as its file tells. Times are seconds since the epoch.

    `progress` holds the fields of the last DatasetProgress of this phase; None: nothing is counted.
    """

    run_id: str
    host: str
    boot: str
    namespace: str
    owner: ProcessId
    since: float
    phase: str = "starting"
    phase_since: float
    progress: dict[str, Any] | None = None
    model: str = ""
    engine: str = ""
    api_url: str = ""
    port: int | None = None
    devices: str = ""
    work_dir: Path | None = None
    commands: dict[str, Command] = Field(default_factory=dict)

    @property
    def state(self) -> State:
        """What has become of it.

        running: its owner lives. ending: the owner is dead, and a guard cleans up. stale: nobody does. foreign: of
        another machine or container, whose PIDs mean nothing here.
        """
        if self.host != platform.node():
            return "foreign"
        if self.boot != boot_id():
            return "stale"
        if self.namespace != pid_namespace():
            return "foreign"
        if self.owner.lives:
            return "running"
        return "ending" if self.guards else "stale"

    @property
    def guards(self) -> list[ProcessId]:
        """The guards that live."""
        return [command.guard for command in self.commands.values() if command.guard and command.guard.lives]


@functools.cache
def boot_id() -> str:
    """Names the time since the machine was last started: PIDs and start times hold for no longer."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@functools.cache
def pid_namespace() -> str:
    """Names what PIDs are counted in: a container has its own."""
    return os.readlink("/proc/self/ns/pid")


def folder() -> Path:
    """Where the files are: a folder of this user on this machine.

    Not below the home folder, which several machines may share; not in XDG_RUNTIME_DIR, which is removed when the user
    logs out, while what was started in tmux runs on; and not in TMPDIR, which differs from job to job.

    Raises:
        OSError: it cannot be made, or is somebody else's.
    """
    given = os.environ.get(FOLDER_VARIABLE)
    base = Path("/tmp") if os.access("/tmp", os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    path = Path(given) if given else base / f"evalflow-{os.getuid()}"
    return private_folder(path, f"set {FOLDER_VARIABLE} to another")


def entries() -> list[Entry]:
    """Every run that is written down, the oldest first.

    Raises:
        OSError: the folder cannot be read.
    """
    found = []
    for path in folder().glob("*.json"):
        # Removed meanwhile; or of a version that writes something else.
        with contextlib.suppress(FileNotFoundError, ValidationError):
            found.append(Entry.model_validate_json(path.read_bytes()))
    return sorted(found, key=lambda entry: (entry.since, entry.run_id))


def remove_unfinished() -> None:
    """Remove what processes that were killed had begun to write.

    Raises:
        OSError: the folder cannot be read.
    """
    for path in folder().glob(f"*{_NEW}"):
        pid = path.name.removesuffix(_NEW).rpartition(".")[2]
        if not (pid.isdecimal() and os.path.exists(f"/proc/{pid}")):
            with contextlib.suppress(OSError):
                path.unlink()


def living() -> list[Entry]:
    """The runs that live: those whose owner does, and those whose guards are ending what it left.

    Raises:
        OSError: the folder cannot be read.
    """
    return [entry for entry in entries() if entry.state in ("running", "ending")]


def new_run_id() -> str:
    """A name for a run that no other run has."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def path_of(run_id: str) -> Path:
    """The file of a run."""
    return folder() / f"{run_id}.json"


class Registration:
    """A run's entry, as its owner keeps it. A file that cannot be written, as on a full disk, harms nobody.

    Attributes:
        stopped: the signal by which `evalflow stop`, or whoever else, has had one of its commands ended; else empty.
    """

    def __init__(self, run_id: str, *, one_command: bool = False, **about: Any) -> None:
        """Write it.

        Args:
            run_id: of the run.
            one_command: close it when its first command has ended.
            about: fields of Entry.
        """
        self.stopped = ""
        self._one_command = one_command
        self._closed = False
        self._lock = threading.RLock()
        now = time.time()
        owner = ProcessId.of(os.getpid())
        assert owner is not None
        self._entry = Entry(
            run_id=run_id, host=platform.node(), boot=boot_id(), namespace=pid_namespace(), owner=owner,
            since=now, phase_since=now, **about,
        )  # fmt: skip
        self._save()

    def set(self, **fields: Any) -> None:
        """Change fields of Entry."""
        with self._lock:
            self._entry = self._entry.model_copy(update=fields)
            self._save()

    def phase(self, name: str) -> None:
        """A phase begins: loading, ready, evaluating, …"""
        self.set(phase=name, phase_since=time.time(), progress=None)

    def starting(self, role: str, command: Command) -> None:
        """A command is about to be started: what it will leave behind, if we die now, is known."""
        with self._lock:
            self.set(commands={**self._entry.commands, role: command})

    def started(self, role: str, guard_pid: int) -> None:
        """Its guard runs."""
        with self._lock:
            command = self._entry.commands[role].model_copy(update={"guard": ProcessId.of(guard_pid)})
            self.set(commands={**self._entry.commands, role: command})

    def hand_over(self, role: str, other: Registration, log: Path | None = None) -> None:
        """A command goes on under another entry, which is written first: at no time is it in none.

        Args:
            role: what the command is called.
            other: the other entry.
            log: its output goes there from now on; None: to where it went before.
        """
        with self._lock:
            commands = dict(self._entry.commands)
            command = commands.pop(role, None)
            if command is not None:
                other.starting(role, command if log is None else command.model_copy(update={"log": log.absolute()}))
                self.set(commands=commands)

    def ended(self, role: str, left: list[int], *, stopped: str = "") -> None:
        """A command and all below it are gone, but for some PIDs perhaps."""
        with self._lock:
            self.stopped = self.stopped or stopped
            commands = dict(self._entry.commands)
            command = commands.pop(role, None)
            if command is not None and left:
                commands[role] = command.model_copy(update={"left": left})
            self.set(commands=commands)
            if self._one_command:
                self.close()

    def end_commands(self) -> list[int]:
        """End every command that still runs, and wait until it is gone.

        For the owner of the run, before `close`: a Ctrl-C may come between the start of a command and the owner's
        taking hold of it, and then this entry alone knows of it.

        Returns:
            PIDs that survive even SIGKILL; they stay in the entry.
        """
        with self._lock:
            running = {role: command for role, command in self._entry.commands.items() if not command.left}
        for role, command in running.items():
            self.ended(role, _end(command))
        return [pid for command in self._entry.commands.values() for pid in command.left]

    def close(self) -> None:
        """The run is over: remove its file, and write no more. No process is ended by this.

        While commands are left, the file stays, for `evalflow clean`.
        """
        with self._lock:
            self._closed = True
            self._save()

    def as_stopped(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Exit of a `with` block in which what was stopped on purpose looks like a failure.

        Raises:
            Stopped: in its place.
        """
        if self.stopped and isinstance(error, EvalFlowError):
            kept = f"; {RESUME}" if self._entry.work_dir else ""
            kind_of = Stopped.all if self.stopped == STOP_ALL.name else Stopped
            raise kind_of(f"stopped by `evalflow stop`{kept}") from error

    def _save(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            path = path_of(self._entry.run_id)
            if self._closed:
                if not self._entry.commands:
                    path.unlink(missing_ok=True)
                return
            new = path.with_suffix(f".{os.getpid()}{_NEW}")
            try:
                new.write_text(self._entry.model_dump_json(), encoding="utf-8")
                new.replace(path)
            finally:
                new.unlink(missing_ok=True)


def _end(command: Command) -> list[int]:
    """End a command by its guard, or, where that is dead or unknown, without. Returns what survives SIGKILL."""
    from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed  # asyncio with it

    if command.guard is not None:
        command.guard.send(signal.SIGTERM)
        wait = Retrying(
            retry=retry_if_result(bool),
            wait=wait_fixed(0.05),
            stop=stop_after_delay(END_S),
            retry_error_callback=lambda state: None,
        )
        wait(lambda: command.guard is not None and command.guard.lives)
    left = orphans.end_run(command.run_id, command.scratch)
    orphans.remove_scratch(command.scratch)
    return left
