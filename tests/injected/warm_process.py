"""A process that has imported EvalFlow and EvalScope, and forks runs: `evalflow`, guards and workers, without waiting.

    python warm_process.py        (with the library of `failing_calls.py` preloaded)

Requests come as JSON lines on standard input: `argv` of the command, or `part`, a name in `part_files.py`; `env`,
`cwd`, `control` (of the library), `output` (a file), `seconds`, `kill_after` (seconds until a SIGKILL; 0: none), and
`learn`: a folder, where what this run imports is to be imported here for those to come, or empty. The reply to each is
a line with `code` (negative: the signal) and `left`: what still lived when all should have been gone, and was killed.
Guards and workers run the same code as ever; only that they are forks, and that no interpreter starts and nothing is
imported for them.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import IO, Any

import part_files
import psutil
import stand_in
from failing_calls import begin

from evalscope_evalflow.cli import command_line
from evalscope_evalflow.processes import guard, supervised

PR_SET_CHILD_SUBREAPER = 36
GONE_WITHIN_S = 20.0
LOOK_S = 0.01
OURS = ("evalscope_evalflow", "evalflow_worker_half")
WORKER = str(Path(guard.__file__).parents[1] / "worker")
LEARN = ""  # the folder in which forks leave word of what they have imported
WORKERS: dict[str, Any] = {}  # modules of ours as a worker has them


class ForkedGuard:
    """As much of `subprocess.Popen` as EvalFlow uses for a guard."""

    control = ""

    def __init__(self, argv: list[str], **options: Any) -> None:
        self.stdin: IO[bytes] | None = None
        taken = -1
        if options["stdin"] == subprocess.PIPE:
            taken, given = os.pipe()
            self.stdin = os.fdopen(given, "wb")
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _be(lambda: _guard(argv, taken, options))
        if taken >= 0:
            os.close(taken)

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _be(what: Any) -> None:
    """Be a forked process that does this, and nothing after it."""
    code = 1
    leave = os._exit
    if LEARN:

        def leave_word(code: int) -> None:
            begin("none", "")
            role = "worker" if sys.argv[0].endswith("/worker") else "parent"
            Path(LEARN, f"{role}-{os.getpid()}").write_text(" ".join(list(sys.modules)))
            leave(code)

        os._exit = leave_word  # type: ignore[assignment]
    try:
        code = what()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - it ends here
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _keep_open(*kept: int) -> None:
    """Close every descriptor beside the first three and these, as an exec would."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in kept:
            with contextlib.suppress(OSError):
                os.close(fd)


def _surroundings(env: dict[str, str], cwd: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    tempfile.tempdir = None


def _guard(argv: list[str], stdin: int, options: dict[str, Any]) -> int:
    begin("none", "")
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (1, 2):
        os.dup2(null, fd)
    os.dup2(stdin if stdin >= 0 else null, 0)
    _keep_open(*options["pass_fds"])
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    _surroundings(options["env"], str(options["cwd"] or os.getcwd()))
    execute = os.execvp

    def become(file: str, words: list[str]) -> None:
        if not words[-1].endswith("evalscope_evalflow/worker"):
            execute(file, words)
        _keep_open(int(os.environ["EVALFLOW_STATUS_FD"]))
        _be(lambda: _worker(words[-1]))

    os.execvp = become  # type: ignore[assignment]
    begin("guard", ForkedGuard.control)
    return guard.main(argv[argv.index(str(supervised.GUARD)) + 1 :])


def _worker(folder: str) -> int:
    begin("none", "")
    _swap_modules(WORKERS)
    if not WORKERS:
        runpy.run_path(os.path.join(WORKER, "__main__.py"), run_name="not main")
    sys.argv = [folder]
    if os.environ.get(stand_in.TEMPLATE):
        stand_in.install()
    begin("worker", ForkedGuard.control)
    runpy.run_path(os.path.join(folder, "__main__.py"), run_name="__main__")
    return 0


def _swap_modules(others: dict[str, Any]) -> dict[str, Any]:
    """Put the worker's modules in the place of the parent's, or the other way round: they have the same names."""
    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] in OURS}
    for name in ours:
        del sys.modules[name]
    sys.modules.update(others)
    return ours


def _learn(folder: str) -> None:
    """Import what a run has imported."""
    for file in Path(folder).glob("parent-*"):
        _import_all(file)
    parents = _swap_modules(WORKERS)
    if not WORKERS:
        runpy.run_path(os.path.join(WORKER, "__main__.py"), run_name="not main")
    for file in Path(folder).glob("worker-*"):
        _import_all(file)
    ahead = importlib.import_module("evalscope_evalflow.worker.import_ahead")
    ahead.openai_client()
    ahead.html_report()
    WORKERS.update(_swap_modules(parents))
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1, threading.enumerate()


def _import_all(names: Path) -> None:
    for name in names.read_text().split():
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _parent(request: dict[str, Any]) -> int:
    os.setsid()
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _keep_open()
    faulthandler.enable(2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _surroundings(request["env"], request["cwd"])
    sys.argv = ["evalflow", *request["argv"]]
    sys.orig_argv[:] = [sys.executable, *sys.argv]
    ForkedGuard.control = request["control"]
    shim = type("Subprocess", (), dict(vars(subprocess), Popen=ForkedGuard))
    supervised.subprocess = shim  # type: ignore[assignment]
    begin("parent", request["control"])
    if request["part"]:
        part_files.PARTS[request["part"]].do(Path(request["cwd"]))
        return 0
    return command_line.main()


def _do(request: dict[str, Any]) -> dict[str, Any]:
    me = psutil.Process()
    pid = os.fork()
    if not pid:
        _be(lambda: _parent(request))
    deadline = time.monotonic() + request["seconds"]
    kill_at = time.monotonic() + request["kill_after"] if request["kill_after"] else deadline + 2000
    code: int | None = None
    while code is None:
        done, status = os.waitpid(-1, os.WNOHANG)
        if done == pid:
            code = os.waitstatus_to_exitcode(status)
        elif not done:
            if time.monotonic() > kill_at:
                os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGABRT)
                deadline += 1000
            time.sleep(LOOK_S)
    left = _wait_gone(me)
    return {"code": code, "left": left}


def _wait_gone(me: psutil.Process) -> list[str]:
    """Wait until all orphans, which come to this process, are gone. Those that stay are killed, and returned."""
    deadline = time.monotonic() + GONE_WITHIN_S
    left: list[str] = []
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        alive = me.children(recursive=True)
        if not alive:
            return left
        if time.monotonic() > deadline:
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.append(f"{process.pid} {process.status()} {process.cmdline()}")
                    process.kill()
            deadline += GONE_WITHIN_S
        time.sleep(LOOK_S)


def main() -> None:
    global LEARN
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        LEARN = request["learn"]
        done = _do(request)
        if LEARN:
            _learn(LEARN)
        print(json.dumps(done), file=replies, flush=True)


if __name__ == "__main__":
    main()
