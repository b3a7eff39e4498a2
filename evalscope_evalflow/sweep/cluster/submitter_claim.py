"""One submitting process for a task's folder, whichever host it is on: `evalflow/submitter.json` says who it is.

Nothing but `link` and `rename` of a file in that folder is relied on, which NFS and Lustre do in one step; locks are
not used. Whether a process of this host lives is known by its PID and start time. Of one on another host it is known
by its heartbeat, the time of the file, which is compared with the file server's own clock.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from evalscope_evalflow.errors import ConfigError, EvalFlowError, Problem
from evalscope_evalflow.processes.registry import ProcessId, boot_id, pid_namespace

FILE = "submitter.json"
BEAT_S = 10.0
SILENT_S = 60.0  # after which a submitter on another host counts as dead; attribute caches of NFS last as long
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK)


@dataclass(frozen=True)
class Submitter:
    """A process that follows a task's cluster jobs.

    Attributes:
        token: names this claim, and no other.
        host: its machine.
        boot: names the time since that was last started.
        namespace: what its PIDs are counted in.
        pid: its process.
        start: that process's start time in clock ticks since boot.
        since: when it began (s since the epoch).
    """

    token: str
    host: str
    boot: str
    namespace: str
    pid: int
    start: int
    since: float

    @classmethod
    def this(cls) -> Submitter:
        """This process."""
        me = ProcessId.of(os.getpid())
        assert me is not None
        return cls(
            secrets.token_hex(8), platform.node(), boot_id(), pid_namespace(), me.pid, me.start, round(time.time(), 3)
        )

    def lives(self, heartbeat_age_s: float) -> bool:
        """Whether it does, as far as that can be known here."""
        if self.host != platform.node():
            return heartbeat_age_s < SILENT_S
        if self.boot != boot_id():
            return False
        if self.namespace != pid_namespace():
            return heartbeat_age_s < SILENT_S
        return ProcessId(pid=self.pid, start=self.start).lives


def read_submitter(work_dir: Path) -> Submitter | None:
    """Who follows the cluster jobs of a task's folder, or did until it was killed; None: nobody."""
    try:
        found = json.loads(_path(work_dir).read_bytes())
        return Submitter(**{item.name: found[item.name] for item in dataclasses.fields(Submitter)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def living_submitter(work_dir: Path) -> Submitter | None:
    """Who follows the cluster jobs of a task's folder now; None: nobody does."""
    found = read_submitter(work_dir)
    return found if found is not None and found.lives(_age_s(_path(work_dir))) else None


class SubmitterClaim:
    """This process's claim to a task's folder, kept by a heartbeat until it is released."""

    def __init__(self, work_dir: Path, lost: Callable[[], None]) -> None:
        """Claim it.

        Args:
            work_dir: the task's folder.
            lost: is called, in a thread, when another process has taken it over.

        Raises:
            ConfigError: another process has it.
            OSError: the folder cannot be written.
        """
        self._me, self._file, self._lost = Submitter.this(), _path(work_dir), lost
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._take(work_dir)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="evalflow claim")
        self._thread.start()

    def release(self) -> None:
        """Give it back."""
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        if self._is_mine():
            self._file.unlink(missing_ok=True)

    def _take(self, work_dir: Path) -> None:
        new = self._file.with_name(f".{FILE}.{self._me.token}")
        new.write_text(json.dumps(dataclasses.asdict(self._me)), encoding="utf-8")
        try:
            for _ in range(3):
                with suppress(FileExistsError):
                    _put_in_place(new, self._file)
                    return
                before = read_submitter(work_dir)
                if before is not None and before.lives(_age_s(self._file)):
                    raise ConfigError(_in_use(work_dir, before))
                self._set_aside(before)
            raise EvalFlowError(f"{self._file} changes all the time: two commands want the same work_dir")
        finally:
            new.unlink(missing_ok=True)

    def _set_aside(self, dead: Submitter | None) -> None:
        """Remove a dead process's claim; if another process was faster, and this is its claim, put that back."""
        aside = self._file.with_name(f".{FILE}.{self._me.token}.old")
        with suppress(FileNotFoundError):
            self._file.rename(aside)
            found = None
            with suppress(OSError, ValueError):
                found = json.loads(aside.read_bytes()).get("token")
            if dead is not None and found != dead.token:
                with suppress(FileExistsError):
                    _put_in_place(aside, self._file)
            aside.unlink(missing_ok=True)

    def _is_mine(self) -> bool:
        with suppress(OSError, ValueError, AttributeError):
            return bool(json.loads(self._file.read_bytes()).get("token") == self._me.token)
        return False

    def _beat(self) -> None:
        missed = 0
        while not self._over.wait(BEAT_S):
            missed = 0 if self._is_mine() else missed + 1
            if missed > 1:
                self._lost()
                return
            if not missed:
                with suppress(OSError):
                    os.utime(self._file)


def _put_in_place(file: Path, target: Path) -> None:
    """Give a file a second name, in one step.

    Raises:
        FileExistsError: something has that name.
    """
    try:
        os.link(file, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with target.open("xb") as other:  # a file system without links: whoever makes the file has it
            other.write(file.read_bytes())


def _path(work_dir: Path) -> Path:
    return work_dir / "evalflow" / FILE


def _age_s(path: Path) -> float:
    """Seconds since a file was last written, by the clock of the machine that stores it."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}.now")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except OSError:  # a folder that is only to be read, or a claim that was just released
        with suppress(OSError):
            return time.time() - path.stat().st_mtime
        return float("inf")
    finally:
        with suppress(OSError):
            probe.unlink()


def _in_use(work_dir: Path, found: Submitter) -> Problem:
    who = f"PID {found.pid} on {found.host}, since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(found.since))}"
    here = found.host == platform.node()
    todo = (
        "Wait for it, end it with Ctrl-C, or choose another folder."
        if here
        else f"Wait for it or end it there. If that host is gone, try again in {SILENT_S:.0f} s."
    )
    return Problem("work_dir", f"{work_dir} has cluster jobs that another evalflow follows: {who}", todo)
