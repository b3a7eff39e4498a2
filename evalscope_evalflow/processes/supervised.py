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
from secrets import token_hex
from typing import IO

import psutil
from typing_extensions import Self

from evalscope_evalflow.processes import guard, orphans
from evalscope_evalflow.processes.exit_reason import LESS, Exit, ExitReason, oom_kills
from evalscope_evalflow.processes.guarded_command import CommandSpec, GuardReport, Owner
from evalscope_evalflow.processes.registry import Command, Registration

GUARD = Path(guard.__file__)
RUN_ID = orphans.RUN_ID
MOVE_S = 10.0  # that a guard may take to go on in another log


class SupervisedProcess:
    """A command, and everything it starts, under a guard.

    Attributes:
        scratch: its private folder for temporary files; it exists from the start to the end.
        exited: is set when the whole tree is gone.
        stop_requested: whether its owner has asked it to end.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path | None,
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
        """Prepare a command; `start` runs it.

        Args:
            argv: the command.
            env: its whole environment; a private TMPDIR is added.
            log: file that its output is appended to; None: one in `scratch`, until `hand_over` names another.
            run_id: goes into its environment, so that it can be found if even the guard is killed.
            secrets: names of variables in `env` whose values must not reach the log.
            grace_s: seconds between SIGTERM and SIGKILL when it is stopped.
            stdin: as in subprocess.Popen.
            pass_fds: descriptors that the command, and nothing else, inherits.
            cwd: folder to run in; default: an empty one of its own.
            output: is called with the command's output as it comes, in a thread.
            on_exit: is called, in a thread, when the whole tree is gone.
            entry: the run's registration, which lists the command while it runs.
            role: what the command is called there.
        """
        # Short, as the paths of unix sockets in it must not exceed 107 bytes.
        self.scratch = Path(tempfile.gettempdir(), f"evalflow-{token_hex(5)}")
        self.exited = threading.Event()
        self.stop_requested = False
        self._spec = CommandSpec(
            argv, env, run_id, secrets, grace_s, stdin, pass_fds, cwd, output, role, log is None,
        )  # fmt: skip
        self._owner = Owner(entry, log or self.scratch / "output.log", on_exit, 0, 0)
        self._control: int | None = None  # the guard is asked for something here
        self._guard: subprocess.Popen[bytes] | None = None
        self._report = GuardReport()
        self._started = threading.Event()
        self._moved = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> Self:
        """Run the command under a guard, and return at once.

        Raises:
            OSError: the guard cannot be started; nothing is left of the attempt.
        """
        spec, entry = self._spec, self._owner.entry
        if entry is not None:  # first: a SIGKILL may come between
            entry.starting(spec.role, Command(run_id=spec.run_id, scratch=self.scratch, log=self.log.absolute()))
        self.scratch.mkdir(mode=0o700)
        self._owner.log_start, self._owner.oom_kills = _size(self.log), oom_kills()
        status, status_end = os.pipe()
        ours, passed = [status], [status_end]
        options = [word for fd in spec.pass_fds for word in ("--pass-fd", str(fd))]
        if spec.output is not None:
            tee, tee_end = os.pipe()
            os.set_blocking(tee_end, False)
            ours.append(tee)
            passed.append(tee_end)
            options += ["--tee-fd", str(tee_end)]
        if spec.movable:
            control_end, self._control = os.pipe()
            ours.append(self._control)
            passed.append(control_end)
            options += ["--control-fd", str(control_end)]
        cwd = spec.cwd
        if cwd is None:
            cwd = self.scratch / "cwd"
            cwd.mkdir()
        try:
            self._guard = subprocess.Popen(
                self._guard_command(status_end, options),
                env={**spec.env, "TMPDIR": str(self.scratch), RUN_ID: spec.run_id},
                cwd=cwd,
                stdin=spec.stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[*passed, *spec.pass_fds],
                start_new_session=True,  # Ctrl-C goes to us alone
            )
        except BaseException as error:
            for fd in ours:
                os.close(fd)
            self._control = None
            if isinstance(error, Exception):  # else a Ctrl-C: what may have been started stays in the registration
                orphans.remove_scratch(self.scratch)
                if entry is not None:
                    entry.ended(spec.role, [])
                self.exited.set()
            raise
        finally:
            for fd in passed:
                os.close(fd)
        if entry is not None:
            entry.started(spec.role, self._guard.pid)
        if spec.output is not None:
            threading.Thread(target=_forward, args=(tee, spec.output), daemon=True, name="evalflow-output").start()
        listener = threading.Thread(target=self._listen, args=(status, self._guard), daemon=True)
        listener.name = "evalflow-status"
        listener.start()
        return self

    def _guard_command(self, status_fd: int, options: Sequence[str]) -> list[str]:
        spec, owner = self._spec, guard.stat(os.getpid())
        assert owner is not None
        return [
            sys.executable, "-IS", str(GUARD),
            "--owner", str(os.getpid()), "--owner-start", str(owner[2]),
            "--status-fd", str(status_fd), "--log", str(self.log), "--secrets", ",".join(spec.secrets),
            "--grace", str(spec.grace_s), "--remove", str(self.scratch),
            "--notes", str(self.scratch / orphans.NOTES), *options, "--", *spec.argv,
        ]  # fmt: skip

    @property
    def log(self) -> Path:
        """File that its output is appended to."""
        return self._owner.log

    @property
    def run_id(self) -> str:
        """As it stands in its environment."""
        return self._spec.run_id

    @property
    def stdin(self) -> IO[bytes] | None:
        """Its standard input, where that is a pipe."""
        return self._guard.stdin if self._guard is not None else None

    @property
    def guard_pid(self) -> int:
        """PID of the guard; only of a command that was started."""
        assert self._guard is not None
        return self._guard.pid

    @property
    def leader(self) -> int | None:
        """PID of the command itself; None until the guard has started it."""
        return self._report.leader

    @property
    def tree(self) -> Mapping[int, int]:
        """Every process that was seen of it: start times in clock ticks since boot, by PID."""
        return self._report.tree

    @property
    def exit_code(self) -> int | None:
        """The command's, or 128 + signal; None while it runs."""
        return self._report.exit_code

    @property
    def left(self) -> list[int]:
        """PIDs that survived even SIGKILL."""
        return self._report.left

    @property
    def removed(self) -> list[str]:
        """Files in /dev/shm that it left, and that were deleted."""
        return self._report.removed

    @property
    def stopped(self) -> str:
        """The signal by which somebody else had the guard end it, as `evalflow stop` does; else empty."""
        return self._report.signal

    def exit_reason(self, less: str = LESS) -> Exit:
        """How it ended, as far as its exit code, its guard and the kernel tell.

        Args:
            less: the advice to give where it needs less memory.
        """
        reason = self._report.reason if self.exited.is_set() else ExitReason.COMMAND_ENDED
        return Exit(self.exit_code, reason, oom_kills() - self._owner.oom_kills, less)

    @property
    def log_start(self) -> int:
        """Where in the log its present owner's part begins, in bytes."""
        return self._owner.log_start

    def wait_started(self) -> int | None:
        """PID of the command, as soon as it runs; None if it never did. Only after `start`."""
        self._started.wait()
        return self.leader

    def hand_over(
        self, entry: Registration, on_exit: Callable[[], None] | None, log: Path | None = None, keys: Sequence[str] = ()
    ) -> bool:
        """Give it another owner.

        Args:
            entry: the new owner's registration.
            on_exit: is called, in a thread, when the whole tree is gone.
            log: file that its output goes to from now on, where it was started without one.
            keys: are blanked there.

        Returns:
            Whether it lives; if not, nothing was changed.
        """
        log_start = _size(log or self.log)
        if log is not None and not self._move(log, keys):
            return False
        with self._lock:
            if self.exited.is_set():
                return False
            if self._owner.entry is not None:
                self._owner.entry.hand_over(self._spec.role, entry, log)
            self._owner = Owner(entry, log or self.log, on_exit, log_start, oom_kills())
            return True

    def _move(self, log: Path, keys: Sequence[str]) -> bool:
        """Have the guard go on in another log. Returns whether it does: nothing goes to the old one any more."""
        with self._lock:
            control, self._control = self._control, None
        if control is None:
            return False
        line = json.dumps({"log": str(log), "secrets": list(keys)}) + "\n"
        with contextlib.suppress(BrokenPipeError), os.fdopen(control, "wb") as pipe:
            pipe.write(line.encode())
        self._moved.wait(MOVE_S)
        return self._report.log == str(log)

    def cpu_seconds(self) -> float:
        """CPU time, in seconds, that the living processes of the tree have used, as far as the guard has reported them.

        That is every few seconds; looking for them here would mean to read every process of the machine.
        """
        total = 0.0
        for pid, start in dict(self.tree).items():
            found = guard.stat(pid)
            if found is not None and found[2] == start:
                with contextlib.suppress(psutil.Error):
                    times = psutil.Process(pid).cpu_times()
                    total += times.user + times.system
        return total

    def listens_at(self, port: int) -> bool:
        """Whether a process of the tree, and not somebody else's, listens at a TCP port."""
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                for connection in process.net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                        return True
        return False

    def _processes(self) -> list[psutil.Process]:
        """Everything below the guard."""
        if self._guard is not None:
            with contextlib.suppress(psutil.Error):
                return psutil.Process(self._guard.pid).children(recursive=True)
        return []

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

    def ask_to_stop(self) -> None:
        """Begin to end the tree, without waiting."""
        self.stop_requested = True
        if self._guard is not None and not self.exited.is_set():
            self._guard.send_signal(signal.SIGTERM)

    def _wait_gone(self) -> None:
        if self._guard is not None and not self.exited.wait(self._spec.grace_s + guard.GIVE_UP_S + 10):
            self._guard.kill()  # it hangs: its command dies with it, and the rest is cleaned up here
            self.exited.wait(guard.GIVE_UP_S + 10)

    def _listen(self, status: int, process: subprocess.Popen[bytes]) -> None:
        """Follow the guard's status lines to their end, which is also the end of everything below it."""
        report = self._report
        with os.fdopen(status, encoding="utf-8") as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # half a line, of a guard that was killed
                    report.update(json.loads(line))
                if report.leader is not None:
                    self._started.set()
                if report.log:
                    self._moved.set()
                if report.exit_code is not None:
                    break
        code = process.wait()
        if report.exit_code is None:  # the guard itself was killed: nobody has cleaned up yet
            report.left = orphans.end_run(self.run_id, self.scratch)
            orphans.remove_scratch(self.scratch)
            report.removed = guard.remove_shared_memory(report.shm)
            report.exit_code = code if code >= 0 else 128 - code
        if self.stop_requested:
            report.signal = ""  # it was ours
        with self._lock:
            owner = self._owner
            if owner.entry is not None:
                owner.entry.ended(self._spec.role, report.left, stopped=self.stopped)
            self._started.set()
            self._moved.set()
            self.exited.set()
            control, self._control = self._control, None
        if control is not None:
            os.close(control)
        if owner.on_exit is not None:
            owner.on_exit()


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _forward(fd: int, output: Callable[[bytes], None]) -> None:
    with os.fdopen(fd, "rb", buffering=0) as pipe:
        while data := pipe.read(65536):
            output(data)
