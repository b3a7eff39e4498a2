"""Processes that cannot be left behind: everything is started under a guard (see guard.py)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from evalscope_evalflow.processes import guard
from evalscope_evalflow.processes import orphans as sweep
from evalscope_evalflow.processes.exit_reason import LESS, Ending, oom_kills
from evalscope_evalflow.processes.registry import Command, Registration

GUARD = Path(guard.__file__)
RUN_ID = sweep.RUN_ID
TOLD = "told to by "  # how a guard says that it was a signal


class Guarded:
    """A command, and everything it starts, under a guard.

    Attributes:
        leader: PID of the command itself; None until the guard has started it.
        exited: is set when the whole tree is gone.
        exit_code: the command's, or 128 + signal; None while it runs.
        left: PIDs that survived even SIGKILL.
        tree: every process that was seen of it: PID, and start time in clock ticks since boot.
        removed: files in /dev/shm that it left, and that were deleted.
        stopped: the signal by which somebody else has told the guard to end it, as `evalflow stop` does; else empty.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        run_id: str,
        secrets: Sequence[str] = (),
        grace_s: float = 5.0,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        cwd: Path | None = None,
        output: Callable[[bytes], None] | None = None,
        on_exit: Callable[[], None] | None = None,
        entry: Registration | None = None,
        role: str = "command",
    ) -> None:
        """Start a command.

        Args:
            argv: the command.
            env: its whole environment; a private TMPDIR is added.
            log: file that its output is appended to.
            run_id: goes into its environment, so that it can be found if even the guard is killed.
            secrets: names of variables in `env` whose values must not reach the log.
            grace_s: seconds between SIGTERM and SIGKILL when it is stopped.
            stdin: as in subprocess.Popen.
            cwd: folder to run in; default: an empty one of its own.
            pass_fds: descriptors that the command, and nothing else, inherits.
            output: is called with the command's output as it comes, in a thread.
            on_exit: is called, in a thread, when the whole tree is gone.
            entry: the run's, which is told of it.
            role: what it is in that entry.
        """
        # Short, as the paths of unix sockets in it must not exceed 107 bytes.
        self.scratch = Path(tempfile.mkdtemp(prefix="evalflow-"))
        self.log, self.run_id, self.grace_s = log, run_id, grace_s
        self.leader: int | None = None
        self.exit_code: int | None = None
        self.left: list[int] = []
        self.tree: dict[int, int] = {}
        self.removed: list[str] = []
        self.stopped = ""
        self._asked = False
        self.exited = threading.Event()
        self._on_exit = on_exit
        self._entry, self._role = entry, role
        self._owning = threading.Lock()
        self._started = threading.Event()
        self._oom_kills = oom_kills()
        self._guard_killed = False
        self._log_start = _size(log)
        status, status_end = os.pipe()
        passed = [status_end, *pass_fds]
        options: list[str] = []
        if output is not None:
            tee, tee_end = os.pipe()
            os.set_blocking(tee_end, False)
            passed.append(tee_end)
            options = ["--tee-fd", str(tee_end)]
        for fd in pass_fds:
            options += ["--pass-fd", str(fd)]
        owner = guard.stat(os.getpid())
        assert owner is not None
        if cwd is None:
            cwd = self.scratch / "cwd"
            cwd.mkdir()
        if entry is not None:
            entry.starting(role, Command(run_id=run_id, scratch=self.scratch, log=log.absolute()))
        try:
            self._guard = subprocess.Popen(
                [
                    sys.executable, "-IS", str(GUARD),
                    "--owner", str(os.getpid()), "--owner-start", str(owner[2]),
                    "--status-fd", str(status_end), "--log", str(log), "--secrets", ",".join(secrets),
                    "--grace", str(grace_s), "--remove", str(self.scratch),
                    "--notes", str(self.scratch / sweep.NOTES), *options, "--", *argv,
                ],
                env={**env, "TMPDIR": str(self.scratch), RUN_ID: run_id},
                cwd=cwd,
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=passed,
                start_new_session=True,  # Ctrl-C goes to us alone
            )  # fmt: skip
        except BaseException:
            os.close(status)
            if output is not None:
                os.close(tee)
            sweep.remove_scratch(self.scratch)
            if entry is not None:
                entry.ended(role, [])
            raise
        finally:
            for fd in passed:
                if fd not in pass_fds:
                    os.close(fd)
        if entry is not None:
            entry.started(role, self._guard.pid)
        self.stdin = self._guard.stdin
        if output is not None:
            threading.Thread(target=_forward, args=(tee, output), daemon=True, name="evalflow-output").start()
        threading.Thread(target=self._listen, args=(status,), daemon=True, name="evalflow-status").start()

    @property
    def guard_pid(self) -> int:
        """PID of the guard."""
        return self._guard.pid

    def exit_reason(self, less: str = LESS) -> Ending:
        """How it ended, as far as its exit code, its guard and the kernel tell.

        Args:
            less: what to do for it to need less memory.
        """
        return Ending(self.exit_code, self._guard_killed, oom_kills() - self._oom_kills, less)

    @property
    def log_start(self) -> int:
        """Where in the log its present owner's part begins, in bytes."""
        return self._log_start

    def wait_started(self) -> int | None:
        """PID of the command, as soon as it runs; None if it never did."""
        self._started.wait()
        return self.leader

    def hand_over(self, entry: Registration, on_exit: Callable[[], None]) -> bool:
        """From now on it is of another run, or of none.

        Args:
            entry: that run's, which is told of it.
            on_exit: is called, in a thread, when the whole tree is gone.

        Returns:
            Whether it lives; if not, nothing was changed.
        """
        with self._owning:
            if self.exited.is_set():
                return False
            if self._entry is not None:
                self._entry.hand_over(self._role, entry)
            self._entry, self._on_exit = entry, on_exit
            self._oom_kills, self._log_start = oom_kills(), _size(self.log)
            return True

    def cpu_seconds(self) -> float:
        """CPU time, in seconds, that the living processes of the tree have used."""
        total = 0.0
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._guard.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    total += times.user + times.system
        return total

    def listens_at(self, port: int) -> bool:
        """Whether a process of the tree, and not somebody else's, listens at a TCP port."""
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._guard.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    for connection in process.net_connections("tcp"):
                        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                            return True
        return False

    def stop(self) -> list[int]:
        """End the whole tree, and wait until it is gone; a Ctrl-C meanwhile is raised afterwards.

        Returns:
            PIDs that survived even SIGKILL; empty when all is well.
        """
        self.ask_to_stop()
        try:
            self._wait_gone()
        except KeyboardInterrupt:
            self._wait_gone()  # a second one does not wait: the guard then goes on alone
            raise
        return self.left

    def _wait_gone(self) -> None:
        if not self.exited.wait(self.grace_s + guard.GIVE_UP_S + 10):
            self._guard.kill()  # it hangs: its command dies with it, and the sweep gets the rest
            self.exited.wait(guard.GIVE_UP_S + 10)

    @property
    def asked(self) -> bool:
        """Whether its owner has told it to end."""
        return self._asked

    @property
    def was_asked(self) -> bool:
        """Whether its end was wanted by its owner."""
        return self._asked

    def ask_to_stop(self) -> None:
        """Begin to end the tree, without waiting."""
        self._asked = True
        if not self.exited.is_set():
            self._guard.send_signal(signal.SIGTERM)

    def _listen(self, status: int) -> None:
        """Follow the guard's status lines to their end, which is also the end of everything below it."""
        told: dict[str, Any] = {}
        shm: set[int] = set()
        with os.fdopen(status, encoding="utf-8") as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # half a line, of a guard that was killed
                    told.update(json.loads(line))
                self.tree.update(told.pop("tree", ()))
                shm.update(told.pop("shm", ()))
                self.leader = told.get("leader", self.leader)
                if self.leader is not None:
                    self._started.set()
                if "exit" in told:
                    break
        code = self._guard.wait()
        self._guard_killed = "exit" not in told
        if "exit" not in told:  # the guard itself was killed: nobody has cleaned up yet
            self.left = sweep.end_run(self.run_id, self.scratch)
            sweep.remove_scratch(self.scratch)
            self.removed = guard.remove_shared_memory(shm)
        self.removed = told.get("removed", self.removed)
        self.left = told.get("left", self.left)
        self.exit_code = told.get("exit", code if code >= 0 else 128 - code)
        why = str(told.get("why", ""))
        self.stopped = why.removeprefix(TOLD) if why.startswith(TOLD) and not self._asked else ""
        with self._owning:
            if self._entry is not None:
                self._entry.ended(self._role, self.left, stopped=self.stopped)
            self._started.set()
            self.exited.set()
            on_exit = self._on_exit
        if on_exit is not None:
            on_exit()


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _forward(fd: int, output: Callable[[bytes], None]) -> None:
    with os.fdopen(fd, "rb", buffering=0) as pipe:
        while data := pipe.read(65536):
            output(data)
