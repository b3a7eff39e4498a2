"""What SIGKILL leaves in /dev/shm is removed if it is ours, and nobody uses it."""

import mmap
import os
import secrets
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving_fixtures import SLEEP, RawGuard, alive, guarded, read, wait_until

from evalscope_evalflow.processes import guard

SHM = Path(guard.SHM)
# A segment and a semaphore as multiprocessing makes them, without its resource tracker; a child has both.
USER = """
import _multiprocessing, _posixshmem, mmap, os, sys, time
name, keep = sys.argv[1:3]
fd = _posixshmem.shm_open("/psm_" + name, os.O_CREAT | os.O_RDWR, 0o600)
os.ftruncate(fd, 4096)
memory = mmap.mmap(fd, 4096)
lock = _multiprocessing.SemLock(0, 1, 1, "/mp-" + name, False)
if keep == "map": os.close(fd)  # mapped, not open
if keep == "open": memory.close()  # open, not mapped
if os.fork() == 0: os.setsid()
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def name():
    """What is left of it, if a test fails, is deleted."""
    found = secrets.token_hex(4)
    yield found
    for path in left(found):
        path.unlink()


def left(name):
    return sorted(SHM.glob(f"*{name}"))


def user(name, keep="map"):
    return [sys.executable, "-ISc", USER, name, keep]


def both(name):
    return [f"{SHM}/psm_{name}", f"{SHM}/sem.mp-{name}"]


def wait_up(log, name):
    wait_until(lambda: read(log).count("up") == 2, "both processes")
    assert [str(path) for path in left(name)] == both(name)


@contextmanager
def running(name, tmp_path, keep="map"):
    with guarded(user(name, keep), tmp_path / "log") as process:
        wait_up(tmp_path / "log", name)
        yield process


def test_without_us_it_stays(name, tmp_path):
    """Else there would be nothing to be shown."""
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(user(name), stdout=log, start_new_session=True)
    wait_up(tmp_path / "log", name)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (child,) = [
        pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if guard.shared_memory(pid) & noted(name)
    ]
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: not guard.shared_memory(child), "its end")
    assert [str(path) for path in left(name)] == both(name)
    assert guard.remove_shared_memory(noted(name)) == both(name)
    assert left(name) == []


def noted(name):
    return {path.stat().st_ino for path in left(name)}


@pytest.mark.parametrize("keep", ["map", "open"])
def test_stopped(name, tmp_path, keep):
    with running(name, tmp_path, keep) as process:
        assert process.stop() == []
        assert process.removed == both(name)
        assert left(name) == []


def test_killed(name, tmp_path):
    with running(name, tmp_path) as process:
        os.kill(process.leader, signal.SIGKILL)
        assert process.exited.wait(20)
        assert process.removed == both(name)
        assert left(name) == []


def test_all_killed_at_once(name, tmp_path):
    """As by a memory limit: nobody is there any more to be looked at, but the guard has looked before."""
    with running(name, tmp_path) as process:
        wait_until(lambda: len(process.tree) == 2, "the guard's look")
        pids = list(process.tree)
        os.kill(process.guard_pid, signal.SIGSTOP)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        os.kill(process.guard_pid, signal.SIGCONT)
        assert process.exited.wait(20)
        assert left(name) == []


def test_owner_killed(name, tmp_path):
    owner = subprocess.Popen(SLEEP)
    try:
        with RawGuard(tmp_path, user(name), owner=owner.pid) as run:
            wait_up(run.log, name)
            owner.kill()
            owner.wait()
            run.wait()
            assert left(name) == []
    finally:
        owner.kill()
        owner.wait()


def test_guard_killed(name, tmp_path):
    """The owner has been told what there was."""
    with running(name, tmp_path) as process:
        wait_until(lambda: len(process.tree) == 2, "the guard's look")
        tree = dict(process.tree)
        os.kill(process.guard_pid, signal.SIGKILL)
        assert process.exited.wait(20)
        wait_until(lambda: not any(guard.stat(pid) and alive_pid(pid) for pid in tree), "the end of the tree")
        assert process.removed == both(name)
        assert left(name) == []


def alive_pid(pid):
    import psutil

    return psutil.pid_exists(pid) and alive(psutil.Process(pid))


def test_what_somebody_else_uses_stays(name, tmp_path):
    """A process outside has mapped the segment; nobody has the semaphore."""
    with running(name, tmp_path) as process:
        with (SHM / f"psm_{name}").open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 4096)
        assert process.stop() == []
        assert process.removed == both(name)[1:]
        assert [str(path) for path in left(name)] == both(name)[:1]
        memory.close()


def test_what_was_there_before_stays(name, tmp_path):
    """Although the command uses it, and nobody else does."""
    path = SHM / f"psm_{name}"
    path.write_bytes(b"x" * 4096)
    path.chmod(0o600)
    with running(name, tmp_path) as process:
        wait_until(lambda: len(process.tree) == 2, "the guard's look")
        assert process.stop() == []
        assert process.removed == both(name)[1:]
    assert left(name) == [path]


def test_what_the_command_never_used_stays(name, tmp_path):
    """It came meanwhile, is of the same kind, and nobody has it mapped: another program's, for all we know."""
    other = SHM / f"psm_other{name}"
    with running(name, tmp_path) as process:
        other.touch(0o600)
        process.stop()
        assert process.removed == both(name)
    assert left(name) == [other]


def test_what_others_may_open_stays(name, tmp_path):
    """Whether they do cannot be seen by everyone."""
    with running(name, tmp_path) as process:
        (SHM / f"psm_{name}").chmod(0o666)
        process.stop()
        assert process.removed == both(name)[1:]


def test_a_file_that_has_the_name_by_now_stays(name, tmp_path):
    with running(name, tmp_path) as process:
        path = SHM / f"psm_{name}"
        path.unlink()
        path.touch(0o600)
        process.stop()
        assert process.removed == both(name)[1:]
        assert path.exists()


def test_the_tree_is_known_with_start_times(tmp_path):
    code = "import os, sys, time\nif os.fork() == 0: os.setsid()\nprint('up', flush=True); time.sleep(600)"
    with guarded([sys.executable, "-ISc", code], tmp_path / "log") as process:
        wait_until(lambda: len(process.tree) == 2, "the guard's look")
        assert process.leader in process.tree
        assert process.tree == {pid: guard.stat(pid)[2] for pid in process.tree}
        process.stop()
        assert len(process.tree) == 2, "it is known what was there, when it is gone"
