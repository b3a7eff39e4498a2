"""The guard itself: whatever ends, and however, nothing of its command is left."""

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest
from serving_fixtures import (
    NASTY,
    SLEEP,
    RawGuard,
    alive,
    below,
    bystander,
    kill,
    python,
    read,
    wait_gone,
    wait_until,
)

from evalscope_evalflow.processes import guard


def test_success(tmp_path):
    with RawGuard(tmp_path, python("import sys; print('out'); print('err', file=sys.stderr)")) as run:
        assert run.said()["leader"] > 0
        assert run.said() == {"exit": 0, "reason": guard.COMMAND_ENDED, "signal": "", "left": [], "removed": []}
        assert run.wait() == 0
        assert sorted(read(run.log).split()) == ["err", "out"]
        assert not run.scratch.exists()


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137), ("1/0", 1)]
)
def test_exit_code_is_the_commands(tmp_path, code, expected):
    with RawGuard(tmp_path, python(code)) as run:
        assert run.wait() == expected
        run.said()
        assert run.said()["exit"] == expected
        assert not run.scratch.exists()


def test_command_that_does_not_exist(tmp_path):
    with RawGuard(tmp_path, [str(tmp_path / "no-such-program")]) as run:
        assert run.wait() == 127
        assert "cannot run" in read(run.log)
        assert "no-such-program" in read(run.log)
        assert not run.scratch.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_told_to_stop(tmp_path, number):
    with bystander(), RawGuard(tmp_path, NASTY) as run:
        tree = run.nasty_tree()
        run.said()
        run.process.send_signal(number)
        said = run.said()
        assert not any(map(alive, tree)), "it said that all was over"
        assert said == {"exit": 137, "reason": guard.SIGNALLED, "signal": number.name, "left": [], "removed": []}
        assert run.wait() == 137
        assert not run.scratch.exists()


def test_command_ends_and_leaves_a_daemon(tmp_path):
    with bystander(), RawGuard(tmp_path, [*NASTY, "--load-seconds", "0.5", "--exit-after-start", "7"]) as run:
        tree = run.nasty_tree()
        assert run.wait() == 7
        assert not any(map(alive, tree))
        assert not run.scratch.exists()


def test_command_is_killed(tmp_path):
    with bystander(), RawGuard(tmp_path, NASTY) as run:
        tree = run.nasty_tree()
        os.kill(run.said()["leader"], signal.SIGKILL)
        assert run.wait() == 137
        assert not any(map(alive, tree))
        assert not run.scratch.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_owner_dies(tmp_path, number):
    owner = subprocess.Popen(SLEEP)
    try:
        with bystander(), RawGuard(tmp_path, NASTY, owner=owner.pid) as run:
            tree = run.nasty_tree()
            run.said()
            owner.send_signal(number)
            assert run.said()["reason"] == guard.OWNER_DIED  # it is a zombie still: a pidfd tells all the same
            assert not any(map(alive, tree))
            run.wait()
            assert not run.scratch.exists()
    finally:
        owner.kill()
        owner.wait()


def test_daemons_of_daemons(tmp_path):
    """Generations of orphans, one of them stopped, all in sessions of their own."""
    code = (
        "import os, signal, time\n"
        "for generation in range(4):\n"
        "    if os.fork():\n"
        "        if generation % 2: os._exit(0)\n"  # the parents of some die, those of others live
        "        break\n"
        "    os.setsid()\n"
        "if generation == 2: signal.raise_signal(signal.SIGSTOP)\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    )
    with RawGuard(tmp_path, python(code)) as run:
        wait_until(lambda: read(run.log).count("up") == 2, "the last generations")
        tree = wait_until(lambda: below(run.pid), "the tree")
        assert len(tree) == 3
        run.process.terminate()
        run.wait()
        assert not any(map(alive, tree))


def test_command_that_forks_all_the_time(tmp_path):
    """What is started while the tree is being ended is ended too."""
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for number in range(1000):\n"
        "    if os.fork() == 0: os.setsid(); time.sleep(600)\n"
        "    if number == 20: print('up', flush=True)\n"
        "    time.sleep(0.02)\n"
    )
    mark = str(tmp_path)  # in the command line of each of them, and of no other process than the guard
    with RawGuard(tmp_path, python(code, mark), grace=0.2) as run:
        wait_until(lambda: "up" in read(run.log), "the command")
        run.process.terminate()
        run.wait()
        run.said()
        assert run.said()["left"] == []
        assert [
            process for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or [])
        ] == []


def test_time_to_end_in_peace(tmp_path):
    code = (
        "import signal, sys, threading\n"
        "asked = threading.Event()\n"
        "signal.signal(signal.SIGTERM, lambda *_: asked.set())\n"
        "print('up', flush=True); asked.wait(); print('bye', flush=True); sys.exit(4)\n"
    )
    with RawGuard(tmp_path, python(code), grace=20) as run:
        wait_until(lambda: "up" in read(run.log), "the command")
        run.process.terminate()
        assert run.wait() == 4
        assert "bye" in read(run.log)


@pytest.mark.parametrize("start", [1, 2**40])
def test_another_process_with_the_owners_pid(tmp_path, start):
    """The owner has died before the guard looked, and its PID is somebody else's."""
    marker = tmp_path / "marker"
    with RawGuard(tmp_path, python("import sys; open(sys.argv[1], 'w')", marker), owner_start=start) as run:
        assert run.wait() == 125
        assert run.said() is None
        assert not marker.exists()


def test_dead_owner(tmp_path):
    marker = tmp_path / "marker"
    owner = subprocess.Popen(SLEEP)
    start = guard.stat(owner.pid)[2]
    owner.kill()
    owner.wait()
    command = python("import sys; open(sys.argv[1], 'w')", marker)
    with RawGuard(tmp_path, command, owner=owner.pid, owner_start=start) as run:
        assert run.wait() == 125
        assert not marker.exists()


def test_dead_owners_folder_is_removed(tmp_path):
    """Nobody else will: it was made before the guard was started."""
    with RawGuard(tmp_path, SLEEP, owner_start=1) as run:
        assert run.wait() == 125
        assert not run.scratch.exists()


def test_command_inherits_only_what_is_meant_for_it(tmp_path):
    """A status pipe that a daemon holds open would keep the owner from noticing that the guard was killed."""
    given, given_end = os.pipe()
    code = (
        "import os; listed = os.listdir('/proc/self/fd')\n"  # which took one itself, and has closed it
        "print(sorted(int(fd) for fd in listed if os.path.lexists('/proc/self/fd/' + fd)))\n"
    )
    tee, tee_end = os.pipe()
    options = ("--pass-fd", str(given_end), "--tee-fd", str(tee_end))
    with RawGuard(tmp_path, python(code), *options, pass_fds=(given_end, tee_end)) as run:
        assert run.wait() == 0
        assert read(run.log).strip() == str([0, 1, 2, given_end])
    for fd in (given, given_end, tee, tee_end):
        os.close(fd)


def test_descriptor_for_the_command_alone(tmp_path):
    """Its end is seen when the command ends it, though the guard goes on."""
    given, given_end = os.pipe()
    code = "import os, sys, time; fd = int(sys.argv[1]); os.write(fd, b'hello'); os.close(fd); time.sleep(600)"
    options = ("--pass-fd", str(given_end))
    with RawGuard(tmp_path, python(code, given_end), *options, pass_fds=(given_end,)) as run:
        os.close(given_end)
        with os.fdopen(given, "rb") as pipe:
            assert pipe.read() == b"hello"
        assert run.process.poll() is None


def test_command_starts_with_ordinary_signals(tmp_path):
    """As from a shell: none is blocked, none is ignored."""
    shell = ["sh", "-c", "grep -E 'SigBlk|SigIgn' /proc/$$/status | cut -f2"]
    with RawGuard(tmp_path, shell) as run:
        assert run.wait() == 0
        blocked, ignored = (int(mask, 16) for mask in read(run.log).split())
    assert blocked == 0
    assert [signal.Signals(n).name for n in range(1, 32) if ignored >> (n - 1) & 1] == []


def test_shared_memory_of_a_killed_command_is_unlinked(tmp_path):
    """Multiprocessing's resource tracker gets the time that it needs for that."""
    code = (
        "import os, signal; from multiprocessing import shared_memory\n"
        "block = shared_memory.SharedMemory(create=True, size=64)\n"
        "print(block.name, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with RawGuard(tmp_path, [sys.executable, "-c", code]) as run:
        assert run.wait() == 137
        name = read(run.log).split()[0]
        assert name.startswith("psm_")
        assert not os.path.exists(f"/dev/shm/{name}")


def test_flood_does_not_block(tmp_path):
    size = 5_000_000
    with RawGuard(tmp_path, python("import os\nfor _ in range(50_000): os.write(1, b'y' * 99 + b'\\n')")) as run:
        assert run.wait(60) == 0
        assert run.log.stat().st_size == size


def test_flood_without_an_end_does_not_make_it_deaf(tmp_path):
    """Writers that are faster than the guard must not keep it from hearing that it shall stop."""
    code = "import os\nfor _ in range(3): os.fork()\nline = b'y' * 4095 + b'\\n'\nwhile True: os.write(1, line)"
    with RawGuard(tmp_path, python(code)) as run:
        wait_until(lambda: run.log.exists() and run.log.stat().st_size > 10_000_000, "the flood", seconds=60)
        run.process.terminate()
        run.wait(20)
        assert not run.scratch.exists()


def test_log_that_cannot_be_written(tmp_path):
    """A full or missing disk must not block the command."""
    options = ("--log", str(tmp_path / "missing" / "log"))
    with RawGuard(
        tmp_path, python("import os\nfor _ in range(20): os.write(1, b'y' * 99_999 + b'\\n')"), *options
    ) as run:
        assert run.wait() == 0


def test_keys_are_blanked_even_in_halves(tmp_path):
    """Written apart, and read apart: the second half follows when the first has been taken in."""
    go, go_end = os.pipe()
    code = (
        "import os, sys; key = os.environ['A_KEY'].encode(); half = len(key) // 2\n"
        "os.write(1, b'whole ' + key + b' and another ' + os.environ['B_KEY'].encode() + b'\\n')\n"
        "os.write(1, b'whole line\\nhalves ' + key[:half]); os.read(int(sys.argv[1]), 1)\n"
        "os.write(1, key[half:] + b' end\\n')\n"
    )
    env = {**os.environ, "A_KEY": "sk-first-key", "B_KEY": "sk-second-key"}
    options = ("--secrets", "A_KEY,B_KEY,NOT_SET", "--pass-fd", str(go))
    with RawGuard(tmp_path, python(code, go), *options, env=env, pass_fds=(go,)) as run:
        wait_until(lambda: "whole line" in read(run.log), "the first half")
        os.write(go_end, b"x")
        assert run.wait() == 0
        stars = "*" * 10
        assert read(run.log) == f"whole {stars} and another {stars}\nwhole line\nhalves {stars} end\n"
    os.close(go)
    os.close(go_end)


def test_tee_gets_what_the_log_gets(tmp_path):
    tee, tee_end = os.pipe()
    os.set_blocking(tee_end, False)
    env = {**os.environ, "A_KEY": "sk-first-key"}
    code = "import os; print('hello', os.environ['A_KEY'])"
    options = ("--tee-fd", str(tee_end), "--secrets", "A_KEY")
    with RawGuard(tmp_path, python(code), *options, env=env, pass_fds=(tee_end,)) as run:
        os.close(tee_end)
        with os.fdopen(tee, "rb") as pipe:
            assert pipe.read() == b"hello **********\n"
        assert run.wait() == 0
        assert read(run.log) == "hello **********\n"


@pytest.mark.parametrize("reader", ["slow", "gone"])
def test_tee_that_nobody_reads(tmp_path, reader):
    tee, tee_end = os.pipe()
    os.set_blocking(tee_end, False)
    if reader == "gone":
        os.close(tee)
    code = "import os\nfor _ in range(1000): os.write(1, b'y' * 999 + b'\\n')"
    with RawGuard(tmp_path, python(code), "--tee-fd", str(tee_end), pass_fds=(tee_end,)) as run:
        os.close(tee_end)
        assert run.wait() == 0
        assert run.log.stat().st_size == 1_000_000
    if reader == "slow":
        os.close(tee)


class TestLog:
    """The part of the guard that writes."""

    def test_rotation(self, tmp_path, monkeypatch):
        monkeypatch.setattr(guard, "LOG_CAP_BYTES", 1000)
        log = guard.Log(str(tmp_path / "log"), [], None)
        for number in range(100):
            log.feed(f"{number:099}\n".encode())
        kept = read(tmp_path / "log.1") + read(tmp_path / "log")
        assert kept.endswith(f"{99:099}\n")
        assert 1000 <= len(kept) <= 2 * (1000 + 100)
        assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]

    def test_what_was_there_counts(self, tmp_path, monkeypatch):
        monkeypatch.setattr(guard, "LOG_CAP_BYTES", 1000)
        (tmp_path / "log").write_bytes(b"x" * 1001)
        guard.Log(str(tmp_path / "log"), [], None).feed(b"new\n")
        assert (read(tmp_path / "log"), len(read(tmp_path / "log.1"))) == ("new\n", 1001)

    def test_appends(self, tmp_path):
        (tmp_path / "log").write_text("old\n")
        guard.Log(str(tmp_path / "log"), [], None).feed(b"new\n")
        assert read(tmp_path / "log") == "old\nnew\n"

    def test_is_not_for_others(self, tmp_path):
        guard.Log(str(tmp_path / "log"), [], None)
        assert (tmp_path / "log").stat().st_mode & 0o077 == 0

    def test_end_without_a_newline(self, tmp_path):
        log = guard.Log(str(tmp_path / "log"), [b"sk-key"], None)
        log.feed(b"the last word is sk-key")
        log.feed(b"", last=True)
        assert read(tmp_path / "log") == "the last word is **********"

    def test_progress_bars_are_seen_at_once(self, tmp_path):
        log = guard.Log(str(tmp_path / "log"), [], None)
        log.feed(b"10%\r20%\r")
        assert (tmp_path / "log").read_bytes() == b"10%\r20%\r"

    @pytest.mark.parametrize("filler", [b"x" * 70_000, b"line\n" * 14_000], ids=["one line", "lines"])
    @pytest.mark.parametrize("cut", [1, 5, 11])
    def test_key_in_two_halves_of_a_flood(self, tmp_path, filler, cut):
        """Lines too long to be held, and reads as large as the pipe."""
        key = b"sk-123456789"
        log = guard.Log(str(tmp_path / "log"), [key], None)
        log.feed(filler + key[:cut])
        log.feed(key[cut:] + b"\n")
        log.feed(b"", last=True)
        assert key.decode() not in read(tmp_path / "log")
        assert read(tmp_path / "log").endswith("**********\n")


def test_stat():
    me = guard.stat(os.getpid())
    assert me[1] == os.getppid()
    assert me[0] == "R"
    assert guard.stat(2**22 + 1) is None  # above the highest PID that Linux gives


def test_stat_of_a_name_that_looks_like_fields(tmp_path):
    code = "open('/proc/self/comm', 'w').write('x) Z 1 (y'); print('up', flush=True); import time; time.sleep(600)"
    with subprocess.Popen(python(code), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"up\n"
            state, parent, start = guard.stat(process.pid)
            assert (state in "SRD", parent) == (True, os.getpid())
            assert start > 0
            assert process.pid in guard.descendants(os.getpid())
        finally:
            process.kill()


def test_descendants_are_no_zombies():
    """A zombie is not one; what lives below it is."""
    process = subprocess.Popen(python("pass"))
    wait_until(lambda: guard.stat(process.pid)[0] == "Z", "its end")
    assert process.pid not in guard.descendants(os.getpid())
    process.wait()


def test_two_guards_are_strangers(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with RawGuard(tmp_path / "a", NASTY) as one, RawGuard(tmp_path / "b", NASTY) as other:
        first, second = one.nasty_tree(), other.nasty_tree()
        one.process.terminate()
        one.wait()
        assert not any(map(alive, first))
        assert all(map(alive, second))
        other.process.terminate()
        other.wait()
        assert not any(map(alive, second))


def test_signal_before_the_command_is_there(tmp_path):
    """At any moment of its start: either nothing was begun, or all of it is ended."""
    for number, delay in enumerate((0.0, 0.01, 0.02, 0.03, 0.05, 0.08)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with RawGuard(folder, SLEEP) as run:
            threading.Event().wait(delay)
            run.process.terminate()
            run.wait()
            said = run.said()
            if said is not None:
                assert run.said()["left"] == []
                assert guard.stat(said["leader"]) is None


def test_killed_guard_takes_the_command_along(tmp_path):
    """What it has started besides is the owner's to find: see test_process.py."""
    with RawGuard(tmp_path, NASTY) as run:
        tree = run.nasty_tree()
        leader = psutil.Process(run.said()["leader"])
        run.process.kill()
        wait_gone([leader])
        kill(tree)
