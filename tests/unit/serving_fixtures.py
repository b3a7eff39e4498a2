"""What the tests of serving share: commands that misbehave, and looking at process trees."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import psutil
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from evalscope_evalflow.processes import guard
from evalscope_evalflow.processes.registry import new_run_id
from evalscope_evalflow.processes.supervised import SupervisedProcess

SCRIPTED = Path(__file__).resolve().parents[1] / "scripted"
SERVER = SCRIPTED / "scripted_server.py"
SLEEP = [sys.executable, "-ISc", "import time; time.sleep(600)"]
# A command, a child and a daemon (setsid, double fork); none of them minds SIGTERM, and two have no environment.
NASTY = [
    sys.executable, "-IS", str(SERVER),
    "--port", "1", "--model", "m", "--silent-stall", "--ignore-sigterm", "--daemon-children",
]  # fmt: skip
NASTY_SIZE = 3
CHILDREN_ARE_UP = "the children are up"


def python(code, *args):
    """A command that runs Python code, quickly."""
    return [sys.executable, "-ISc", code, *map(str, args)]


def wait_until(condition, what, seconds=20):
    """Wait for a condition; what it returned.

    Args:
        condition: is called until it returns something true.
        what: names it, where it never does.
        seconds: for how long.
    """
    poll = Retrying(
        retry=retry_if_result(lambda value: not value),
        wait=wait_fixed(0.02),
        stop=stop_after_delay(seconds),
        retry_error_callback=lambda state: None,
    )
    found = poll(condition)
    assert found, f"not within {seconds} s: {what}"
    return found


def alive(process):
    """Whether a process lives; one that nobody has collected yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_gone(processes, seconds=10):
    """Wait until none of these lives."""
    wait_until(
        lambda: not any(map(alive, processes)), f"the end of {[p for p in processes if alive(p)]}", seconds=seconds
    )


def below(pid):
    """Every living process below another."""
    return [process for process in psutil.Process(pid).children(recursive=True) if alive(process)]


def read(path):
    """A file's text; empty if there is none."""
    path = Path(path)
    return path.read_text(errors="replace") if path.exists() else ""


def nasty_tree(guard_pid, log):
    """The processes of NASTY under a guard, when all of them are there."""
    wait_until(lambda: CHILDREN_ARE_UP in read(log), "children and daemon of the nasty command")
    found = below(guard_pid)
    assert len(found) == NASTY_SIZE, [process.cmdline() for process in found]
    return found


def kill(processes):
    """SIGKILL processes, if they live: for the end of a test that has failed. Psutil checks whose PID it is."""
    for process in processes:
        if alive(process):
            process.kill()


@contextmanager
def bystander():
    """A process like those that are ended, but nobody's business: it has to live until the end of the block."""
    other = subprocess.Popen(SLEEP)
    try:
        yield other
        assert other.poll() is None, "a process that has nothing to do with it was ended"
    finally:
        other.kill()
        other.wait()


@contextmanager
def guarded(argv, log, **options):
    """A command under a guard; at the end of the block whatever is left of it is ended."""
    options = {"env": dict(os.environ), "run_id": new_run_id(), "grace_s": 0.3, **options}
    process = SupervisedProcess(argv, log=Path(log), **options).start()
    try:
        yield process
    finally:
        tree = below(process.guard_pid) if process.exit_code is None and psutil.pid_exists(process.guard_pid) else []
        stopping = threading.Thread(target=process.stop, daemon=True)
        stopping.start()
        stopping.join(10)
        kill(tree)
        stopping.join(10)


class RawGuard:
    """guard.py as a process, without SupervisedProcess.

    Attributes:
        process: it.
        log: file with the command's output.
        scratch: folder that it is to remove.
    """

    def __init__(self, folder, argv, *options, owner=None, owner_start=None, grace=0.3, env=None, pass_fds=()):
        owner = os.getpid() if owner is None else owner
        owner_start = guard.stat(owner)[2] if owner_start is None else owner_start
        self.log, self.scratch = folder / "log", folder / "scratch"
        (self.scratch / "inner").mkdir(parents=True)
        (self.scratch / "inner" / "file").write_text("x")
        self._status, status_end = os.pipe()
        self.process = subprocess.Popen(
            [
                sys.executable, "-IS", guard.__file__,
                "--owner", str(owner), "--owner-start", str(owner_start), "--status-fd", str(status_end),
                "--log", str(self.log), "--grace", str(grace), "--orphan-grace", str(grace),
                "--remove", str(self.scratch), *options, "--", *argv,
            ],
            pass_fds=[status_end, *pass_fds],
            env=env,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(status_end)
        self._lines = os.fdopen(self._status, encoding="utf-8")
        self._tree = []
        self.seen = []

    @property
    def pid(self):
        return self.process.pid

    def said(self):
        """Its next status line; those that say what it has seen go to `seen`."""
        for line in self._lines:
            said = json.loads(line)
            if "tree" not in said:
                return said
            self.seen.append(said)
        return None

    def nasty_tree(self):
        """The processes of NASTY."""
        self._tree = nasty_tree(self.pid, self.log)
        return self._tree

    def wait(self, seconds=20):
        """Its exit code, once it has ended."""
        return self.process.wait(seconds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        tree = below(self.pid) if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        kill([*tree, *self._tree])
        self._lines.close()


def returns_within(seconds, function, clean_up):
    """What a function returns or raises, as (value, error); it has to, within so many seconds.

    Args:
        seconds: how long it may take.
        function: is called in a thread.
        clean_up: is called where it takes longer, and has to make it end.
    """
    found = []

    def call():
        try:
            found.append((function(), None))
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            found.append((None, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    late = thread.is_alive()
    if late:
        clean_up()
        thread.join(20)
    assert not late, f"it took longer than {seconds} s"
    return found[0]


def journal(path):
    """The requests that a scripted server has had: (path, hash of the prompt)."""
    return [(line["path"], line["prompt"]) for line in map(json.loads, read(path).splitlines())]
